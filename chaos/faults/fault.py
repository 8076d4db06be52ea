"""What a fault is, and the world that faults act on. Knows no fault by name."""

from __future__ import annotations

import signal
from typing import Any, Protocol

from chaos.faults.toxiproxy import Toxiproxy
from chaos.record.aim import Aim


class World(Protocol):
    """What faults act on: the running stack, or the servers of a test."""

    @property
    def toxiproxy(self) -> Toxiproxy:
        """What cuts and poisons the links."""

    def signal(self, process: Aim, number: signal.Signals) -> int:
        """Send a signal to the process (a store: to all its processes); returns its pid."""

    def replace(self, process: Aim) -> int:
        """Wait until the process is gone and start another in its place; returns the new pid."""

    def flush_redis(self) -> int:
        """FLUSHALL; returns how many keys were lost."""

    def tell_redis(self, *words: str) -> str:
        """Send one command to the server itself; returns its answer."""

    def spoil_redis(self, nth: int) -> str:
        """Put the n-th kind of garbage under the queue's keys, counted round and round; returns its name."""

    def age_leases(self, seconds: float) -> int:
        """Make every lease look so much older, as a step of PostgreSQL's clock does; returns how many there are."""

    def hold_key(self, key: str) -> None:
        """Submit a job under that idempotency key in a transaction, and leave that open."""

    def free_key(self, key: str) -> None:
        """Roll that transaction back; there need not be one."""

    def configure_postgres(self, name: str, value: str) -> None:
        """Have every new session of the database start with that setting, for the rest of the run."""

    def fail_over_redis(self) -> int:
        """The replica becomes the master behind the one address, the old master its replica; returns the new port."""

    def part_redis(self) -> None:
        """What is the replica now hears of its master no more, and goes on taking no writes."""

    def await_busy(self, process: Aim, seconds: float) -> bool:
        """Wait until a job's body runs in the process; False when none did in time."""

    def await_point(self, process: Aim, point: str, seconds: float) -> int | None:
        """Wait until what is to happen at the crash point has happened; the process's pid, None when it has not."""


class Fault(Protocol):
    """A way to break one target. `inject` and `heal` return what the history should add to the pair.

    `await_moment` comes first and is not recorded: it waits for what the fault needs. Raises FaultFailed.
    """

    @property
    def name(self) -> str:
        """As in the catalogue."""

    @property
    def target(self) -> Aim:
        """What it breaks."""

    def await_moment(self, world: World) -> None:
        """Wait for what the fault needs. Raises FaultFailed."""

    def inject(self, world: World) -> dict[str, Any]:
        """Break the target; returns what the history adds. Raises ChaosError."""

    def heal(self, world: World) -> dict[str, Any]:
        """Undo it, also when only half of it was done. Raises ChaosError."""
