"""Named faults as values: what breaks, how it sets in, how it heals; and the nemesis that plays them.

All chance lies in the seeded schedule: toxicity is 1 and jitter 0. Healing is repeatable and is tried for
every fault even when another one fails to heal.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from chaos.errors import ChaosError, FaultFailed, UsageError
from chaos.history import NEMESIS, Planned
from chaos.recorder import Recorder
from chaos.toxiproxy import Stream, Toxic, Toxiproxy

LINKS = ("api-redis", "worker-redis", "api-postgres", "worker-postgres")
BOTH: tuple[Stream, ...] = ("upstream", "downstream")
POINT_SECONDS = 20.0


class World(Protocol):
    """What faults act on: the running stack, or the servers of a test."""

    @property
    def toxiproxy(self) -> Toxiproxy: ...

    def signal(self, process: str, number: signal.Signals) -> int:
        """Send a signal to the process (a store: to all its processes); returns its pid."""

    def replace(self, process: str) -> int:
        """Wait until the process is gone and start another in its place; returns the new pid."""

    def flush_redis(self) -> int:
        """FLUSHALL; returns how many keys were lost."""

    def await_busy(self, process: str, seconds: float) -> bool:
        """Wait until a job's body runs in the process; False when none did in time."""

    def await_point(self, process: str, point: str, seconds: float) -> int | None:
        """Wait until the process reached its crash point and what is to happen there has; its pid, None in vain."""


class Fault(Protocol):
    """A way to break one target. `inject` and `heal` return what the history should add to the pair.

    `await_moment` comes first and is not recorded: it waits for what the fault needs. Raises FaultFailed in vain.
    """

    @property
    def name(self) -> str: ...

    @property
    def target(self) -> str: ...

    def await_moment(self, world: World) -> None: ...

    def inject(self, world: World) -> dict[str, Any]: ...

    def heal(self, world: World) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class LinkFault:
    """Toxics on one link between a role and a store, or a listener that refuses (`toxics` empty)."""

    name: str
    target: str
    toxics: tuple[Toxic, ...] = ()

    def await_moment(self, world: World) -> None:
        """Any moment will do."""

    def inject(self, world: World) -> dict[str, Any]:
        for toxic in self.toxics:
            world.toxiproxy.add_toxic(self.target, toxic)
        if not self.toxics:
            world.toxiproxy.patch(self.target, enabled=False)
        return {}

    def heal(self, world: World) -> dict[str, Any]:
        for toxic in self.toxics:
            world.toxiproxy.remove_toxic(self.target, toxic.label)
        if not self.toxics:
            world.toxiproxy.patch(self.target, enabled=True)
        return {}


@dataclass(frozen=True, slots=True)
class SignalFault:
    """A signal to a process: SIGSTOP heals by SIGCONT, SIGKILL and SIGTERM by a replacement process."""

    name: str
    target: str
    number: signal.Signals
    when_busy: bool = False

    def await_moment(self, world: World) -> None:
        """In vain is no failure: the guards say whether a fault met any job."""
        if self.when_busy:
            world.await_busy(self.target, 10.0)

    def inject(self, world: World) -> dict[str, Any]:
        return {"pid": world.signal(self.target, self.number)}

    def heal(self, world: World) -> dict[str, Any]:
        if self.number == signal.SIGSTOP:
            return {"pid": world.signal(self.target, signal.SIGCONT)}
        return {"pid": world.replace(self.target)}


@dataclass(frozen=True, slots=True)
class PointFault:
    """What the process does to itself at a crash point that it was started with: dies, stops, or loses a reply."""

    name: str
    target: str
    point: str

    def await_moment(self, world: World) -> None:
        if world.await_point(self.target, self.point, POINT_SECONDS) is None:
            raise FaultFailed(f"{self.target} did not reach {self.point} within {POINT_SECONDS:g} s")

    def inject(self, world: World) -> dict[str, Any]:
        """It has just happened; this is its record."""
        return {"pid": world.await_point(self.target, self.point, 0.0), "point": self.point}

    def heal(self, world: World) -> dict[str, Any]:
        match self.name:
            case "kill":
                return {"pid": world.replace(self.target)}
            case "pause":
                return {"pid": world.signal(self.target, signal.SIGCONT)}
            case _:
                return {}


@dataclass(frozen=True, slots=True)
class FlushFault:
    """Everything in Redis is gone in one moment; only the scheduler itself can heal that."""

    name: str = "flush"
    target: str = "redis"

    def await_moment(self, world: World) -> None:
        """Any moment will do."""

    def inject(self, world: World) -> dict[str, Any]:
        return {"keys": world.flush_redis()}

    def heal(self, world: World) -> dict[str, Any]:
        return {}


def _both(kind: str, **attributes: int) -> tuple[Toxic, ...]:
    return tuple(Toxic(kind, stream, attributes) for stream in BOTH)


def _link(name: str, toxics: tuple[Toxic, ...]) -> Callable[[Planned], Fault]:
    return lambda planned: LinkFault(name, planned.target, toxics)


def _brownout(planned: Planned) -> Fault:
    latency = int(planned.arguments.get("latency_ms", 200))
    rate = planned.arguments.get("rate_kb")
    toxics: tuple[Toxic, ...] = (Toxic("latency", "downstream", {"latency": latency, "jitter": 0}),)
    if rate is not None:
        toxics += (Toxic("bandwidth", "downstream", {"rate": int(rate)}),)
    return LinkFault("brownout", planned.target, toxics)


def _torn_reply(planned: Planned) -> Fault:
    size = int(planned.arguments.get("bytes", 10))
    return LinkFault("torn_reply", planned.target, (Toxic("limit_data", "downstream", {"bytes": size}),))


def _signal(name: str, number: signal.Signals) -> Callable[[Planned], Fault]:
    def make(planned: Planned) -> Fault:
        if "point" in planned.arguments:
            return _point(planned)
        return SignalFault(name, planned.target, number, bool(planned.arguments.get("when_busy")))

    return make


def _point(planned: Planned) -> Fault:
    if "point" not in planned.arguments:
        raise UsageError(f"{planned.fault} on {planned.target} has no `point` among its arguments; see `chaos points`")
    return PointFault(planned.fault, planned.target, str(planned.arguments["point"]))


# name → what it does to an established connection, and at heal. Measured: tests/chaos/test_faults.py.
FAULTS: dict[str, Callable[[Planned], Fault]] = {
    # silent; held data is delivered at heal and a request the client gave up on still executes
    "partition.hold": _link("partition.hold", _both("latency", latency=3_600_000, jitter=0)),
    # silent; data is gone and the connection closed at heal
    "partition.drop": _link("partition.drop", _both("timeout", timeout=0)),
    # the command executes, its reply never arrives
    "ack_lost": _link("ack_lost", (Toxic("timeout", "downstream", {"timeout": 0}),)),
    # the command executes, the connection closes instead of a reply
    "ack_lost.close": _link("ack_lost.close", (Toxic("limit_data", "downstream", {"bytes": 0}),)),
    # the command never executes, nothing is answered
    "send_lost": _link("send_lost", (Toxic("timeout", "upstream", {"timeout": 0}),)),
    # the command executes, the first bytes of its reply arrive, then the connection closes
    "torn_reply": _torn_reply,
    # connections are closed and new ones refused
    "refuse": _link("refuse", ()),
    # the next data on a connection closes it
    "reset": _link("reset", _both("reset_peer", timeout=0)),
    # slow: `latency_ms` (200), `rate_kb`
    "brownout": _brownout,
    "kill": _signal("kill", signal.SIGKILL),
    "pause": _signal("pause", signal.SIGSTOP),
    "term": _signal("term", signal.SIGTERM),
    "flush": lambda _: FlushFault(),
    # a command ran, its reply never arrived, at the crash point `point` of one process
    "reply_lost": _point,
}
# what a process does at a crash point, by the name of the fault
AT_POINT = {"kill": "kill", "pause": "stall", "reply_lost": "lose"}


def armed(schedule: Iterable[Planned]) -> dict[tuple[str, int], str]:
    """(process, n-th start) → the value of SCHEDULER_CRASH_POINTS that the schedule wants there."""
    return {
        (each.target, int(each.arguments.get("start", 1))): (
            f"{each.arguments['point']}:{AT_POINT[each.fault]}@{each.arguments.get('nth', 1)}"
        )
        for each in schedule
        if "point" in each.arguments
    }


def make_fault(planned: Planned) -> Fault:
    """The fault that a schedule's line names. Raises UsageError with the nearest known name."""
    if planned.fault not in FAULTS:
        near = get_close_matches(planned.fault, FAULTS, n=1, cutoff=0.4) or sorted(FAULTS)
        raise UsageError(f"no fault is called {planned.fault!r}; did you mean {near[0]!r}?")
    return FAULTS[planned.fault](planned)


class Nemesis:
    """Plays faults on a world, each call recorded as a pair: onset and healing lie in known intervals."""

    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world, self._recorder = world, recorder
        self._active: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        """Active from the first byte sent on: half an injection is healed like a whole one."""
        fault.await_moment(self._world)
        self._active.append(fault)
        with self._recorder.paired(NEMESIS, fault.name, {"target": fault.target}) as added:
            added.update(fault.inject(self._world))

    def heal(self, fault: Fault) -> None:
        """Healing what is not active is no error."""
        if fault not in self._active:
            return
        value = {"fault": fault.name, "target": fault.target}
        with self._recorder.paired(NEMESIS, "heal", value) as added:
            added.update(fault.heal(self._world))
        self._active.remove(fault)

    def heal_all(self) -> None:
        """Heal all that is active, newest first, and sweep the links. Raises FaultFailed."""
        troubles = []
        for fault in reversed(self._active.copy()):
            try:
                self.heal(fault)
            except (ChaosError, OSError) as error:
                troubles.append(f"{fault.name} on {fault.target}: {error}")
        try:
            self._world.toxiproxy.sweep()
        except ChaosError as error:
            troubles.append(str(error))
        if troubles:
            raise FaultFailed("; ".join(troubles))
