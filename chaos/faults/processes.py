"""What can befall a process: SIGKILL, SIGSTOP, SIGTERM, at any moment or at a named crash point of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.errors import FaultFailed, UsageError
from chaos.faults.fault import Fault, World
from chaos.record.aim import Aim
from chaos.record.plan import Planned

POINT_SECONDS = 20.0  # what a process may need to reach its crash point; not measured
AT_POINT = ("kill", "pause", "reply_lost")  # the faults that a process can suffer at a crash point


@dataclass(frozen=True, slots=True)
class SignalFault:
    """A signal to a process: SIGSTOP heals by SIGCONT, SIGKILL and SIGTERM by a replacement process."""

    name: str
    target: Aim
    number: signal.Signals
    when_busy: bool = False

    def await_moment(self, world: World) -> None:
        """That no body runs in time is no failure: the guards say whether a fault met any job."""
        if self.when_busy:
            world.await_busy(self.target, 10.0)

    def inject(self, world: World) -> dict[str, Any]:
        """Send the signal; returns the `pid`."""
        return {"pid": world.signal(self.target, self.number)}

    def heal(self, world: World) -> dict[str, Any]:
        """Let it go on, or put another process in its place."""
        if self.number == signal.SIGSTOP:
            return {"pid": world.signal(self.target, signal.SIGCONT)}
        return {"pid": world.replace(self.target)}


@dataclass(frozen=True, slots=True)
class PointFault:
    """What the process does to itself at a crash point that it was started with: dies, stops, or loses a reply."""

    name: str
    target: Aim
    point: str

    def await_moment(self, world: World) -> None:
        """Wait for the process to come there. Raises FaultFailed after 20 s."""
        if world.await_point(self.target, self.point, POINT_SECONDS) is None:
            raise FaultFailed(f"{self.target} did not reach {self.point} within {POINT_SECONDS:g} s")

    def inject(self, world: World) -> dict[str, Any]:
        """It has just happened; this is its record."""
        return {"pid": world.await_point(self.target, self.point, 0.0), "point": self.point}

    def heal(self, world: World) -> dict[str, Any]:
        """Let it go on, or put another process in its place; a lost reply needs nothing."""
        match self.name:
            case "kill":
                return {"pid": world.replace(self.target)}
            case "pause":
                return {"pid": world.signal(self.target, signal.SIGCONT)}
            case _:
                return {}


def by_signal(name: str, number: signal.Signals) -> Callable[[Planned], Fault]:
    """Makes the fault of that name, at a crash point where the schedule names one."""

    def make(planned: Planned) -> Fault:
        if "point" in planned.arguments:
            return at_point(planned)
        return SignalFault(name, planned.target, number, bool(planned.arguments.get("when_busy")))

    return make


def at_point(planned: Planned) -> Fault:
    """The fault at the crash point `point`. Raises UsageError when none is named."""
    if "point" not in planned.arguments:
        raise UsageError(f"{planned.fault} on {planned.target} has no `point` among its arguments; see `chaos points`")
    return PointFault(planned.fault, planned.target, str(planned.arguments["point"]))
