"""Which function handles which type. A user's handler may replace a built-in of the same name, never another user's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from scheduler.errors import ConfigurationError

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and the type it handles."""

    type: str
    function: Callable[[Any, Any], Any]
    is_async: bool
    is_builtin: bool = False


class Registry:
    """Type -> handler."""

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}

    def add(self, type: str, function: Callable[..., Any], *, is_builtin: bool = False) -> None:
        """Raises ConfigurationError for an unusable name and for a second handler of one type."""
        if not type or len(type) > 200 or not type.isprintable():
            raise ConfigurationError(f"job type {type!r} must be 1 to 200 printable characters")
        known = self._handlers.get(type)
        if is_builtin and known and not known.is_builtin:
            return
        if known and not known.is_builtin and known.function is not function:
            raise ConfigurationError(
                f"type {type!r} has two handlers, {name_of(known.function)} and {name_of(function)}; rename one"
            )
        self._handlers[type] = Handler(type, function, inspect.iscoroutinefunction(function), is_builtin)

    def get(self, type: str) -> Handler | None:
        """The handler of the type, None when there is none."""
        return self._handlers.get(type)

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __contains__(self, type: str) -> bool:
        return type in self._handlers


def name_of(function: Callable[..., Any]) -> str:
    """Module and name, for messages."""
    return f"{function.__module__}.{function.__qualname__}"


handlers = Registry()


def job(type: str) -> Callable[[Function], Function]:
    """Register the decorated `async def` or plain `def` (run in a thread) as the handler of `type`."""

    def register(function: Function) -> Function:
        handlers.add(type, function, is_builtin=function.__module__ == "scheduler.samples")
        return function

    return register
