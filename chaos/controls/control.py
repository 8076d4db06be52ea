"""A negative control as a value, the decorator that makes one out of its patch, and finding one by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

from chaos.errors import UsageError

EVERYWHERE, CLIENT = "*", "client"
FAMILIES = ("settling", "retries", "leases", "submitting", "stores", "harmless")


@dataclass(frozen=True, slots=True)
class Control:
    """What is broken, the scenario that shows it, the checks that must turn invalid, and the patch that breaks it.

    Each check must do so in one of the first `runs` seeds. Harmless: `breaks` may turn invalid, nothing else.
    """

    name: str
    does: str
    scenario: str
    apply: Callable[[], None]  # breaks the process that calls it; raises UsageError when it finds nothing to break
    breaks: tuple[str, ...] = ()
    on: str = "worker"  # a role, a process name, everywhere, or the client that submits
    drain_seconds: float = 15.0
    runs: int = 3
    is_harmless: bool = False

    @property
    def address(self) -> str:
        """Family and name, as CHAOS_CONTROL tells them to the process that is to be broken."""
        return f"{self.apply.__module__}:{self.name}"


def control(
    name: str,
    does: str,
    *,
    scenario: str,
    breaks: tuple[str, ...] = (),
    on: str = "worker",
    drain_seconds: float = 15.0,
    runs: int = 3,
    is_harmless: bool = False,
) -> Callable[[Callable[[], None]], Control]:
    """Make a control of the function that breaks the process it is called in."""
    return lambda patch: Control(name, does, scenario, patch, breaks, on, drain_seconds, runs, is_harmless)


def controls_in(family: ModuleType) -> Iterator[Control]:
    """Those of one family, in the order of its file."""
    return (each for each in vars(family).values() if isinstance(each, Control))


@cache
def every() -> dict[str, Control]:
    """All of them by name, the harmless ones last."""
    families = [import_module(f"chaos.controls.{family}") for family in FAMILIES]
    return {each.name: each for family in families for each in controls_in(family)}


def find(name: str) -> Control:
    """The control of that name, harmless or not. Raises UsageError with the nearest known name."""
    if name not in every():
        raise UsageError.unknown("control", name, every(), "`chaos controls --list`")
    return every()[name]
