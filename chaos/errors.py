"""What can go wrong in the harness itself, as one tree. A broken promise is a verdict, never an exception.

ChaosError
├── ToxiproxyError
│   ├── ToxiproxyHung         a call outlived its deadline: the run proves nothing
│   ├── ToxiproxyUnreachable  no server answers
│   └── ToxiproxyRefused      the server answered with an error
├── StackFailed               a server, API or worker did not start, or ended by itself
├── FaultFailed               a fault could not be injected or healed
├── RunUnreadable             a run folder is missing or damaged beyond its torn last line
└── UsageError                a name or option that does not exist
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self


class ChaosError(Exception):
    """Base of everything this package raises on purpose."""


class ToxiproxyError(ChaosError):
    """Base of what the fault injector can answer."""


class ToxiproxyHung(ToxiproxyError):
    """A call outlived its deadline; restart the server and call the run unknown."""

    def __init__(self, call: str, seconds: float) -> None:
        super().__init__(f"Toxiproxy hung in {call} for {seconds:g} s; restart it, the run is unknown")
        self.call, self.seconds = call, seconds


class ToxiproxyUnreachable(ToxiproxyError):
    """Nothing listens at the address, or the connection broke."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"no Toxiproxy answers at {address} ({reason}); start one, or pass its address")
        self.address = address


class ToxiproxyRefused(ToxiproxyError):
    """The server understood the call and refused it; `status` is the HTTP status."""

    def __init__(self, call: str, status: int, message: str) -> None:
        super().__init__(f"Toxiproxy refused {call}: {status} {message}")
        self.call, self.status, self.message = call, status, message


class StackFailed(ChaosError):
    """A process of the system under test did not start, or died without being asked to."""


class FaultFailed(ChaosError):
    """A fault could not be injected or healed."""


class RunUnreadable(ChaosError):
    """A run folder lacks a file, or a file is not what it should be."""


class UsageError(ChaosError):
    """What was asked for does not exist; the message names the nearest that does."""

    @classmethod
    def unknown(cls, what: str, name: str, known: Iterable[str], listed_by: str) -> Self:
        """`what` is the noun, such as "scenario"; `listed_by` says where all names stand, when none is near."""
        near = get_close_matches(name, known := list(known), n=1, cutoff=0.4)
        return cls(f"no {what} is called {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"see {listed_by}"))
