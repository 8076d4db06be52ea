"""What a fault is, and the world that faults act on. Knows no fault by name."""

from __future__ import annotations

import signal
from typing import Any, Protocol

from chaos.faults.toxiproxy import Toxiproxy

LINKS = ("api-redis", "worker-redis", "api-postgres", "worker-postgres")


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
