"""What the endpoints use, and the loops that must run for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from scheduler.api.access.guard import Guard
from scheduler.api.metrics import Gauges
from scheduler.api.types import Types
from scheduler.api.waiters import Waiters
from scheduler.errors import SchedulerError, StoreUnavailable
from scheduler.facts.facts import NOT_READY, tell
from scheduler.jobs.registry import Registry
from scheduler.service import Service
from scheduler.settings import Settings
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.submission.backlog import Backlog
from scheduler.submission.intake import Intake
from scheduler.submission.publisher import Publisher

STALLED_SECONDS, FRESH_SECONDS, STARVED_SECONDS = 10.0, 1.0, 15.0


class Readiness:
    """Whether this process can do its work: looked at once a second at most, whoever asks."""

    def __init__(self, store: Store, stream: Stream, services: Sequence[Service]) -> None:
        self._store, self._stream, self._services = store, stream, services
        self._lock = asyncio.Lock()
        self._answer: dict[str, str] = {}
        self._starved, self._looked_at = 0.0, -FRESH_SECONDS

    async def answer(self) -> dict[str, str]:
        """For each part "ok", or what is wrong with it."""
        async with self._lock:
            if time.monotonic() - self._looked_at >= FRESH_SECONDS:
                probes = self._store.postgres.require_writable(), self._redis(), self._jobs()
                postgres, redis, jobs = await asyncio.gather(*map(_reason, probes))
                stalled = [service.name for service in self._services if service.idle_seconds > STALLED_SECONDS]
                loops = f"stalled: {', '.join(stalled)}" if stalled else "ok"
                self._answer = {"postgres": postgres, "redis": redis, "loops": loops, "jobs": jobs}
                self._looked_at = time.monotonic()
                if unwell := [f"{part}: {found}" for part, found in self._answer.items() if found != "ok"]:
                    tell(NOT_READY, reason="; ".join(unwell))
            return self._answer

    async def _redis(self) -> str:
        """What a job needs there, asked of each key."""
        await self._stream.require_writable()
        return "; ".join(f"{key}: {flaw}" for key, flaw in (await self._stream.flaws()).items())

    async def _jobs(self) -> str:
        """Whether due jobs only grow older, at two looks in a row: between those a worker has the time to begin one."""
        before, self._starved = self._starved, await self._store.starved_seconds()
        if min(before, self._starved) <= STARVED_SECONDS:
            return ""
        return f"due jobs have waited for {self._starved:.0f} s and none runs, though workers live that could run them"


async def _reason(probe: Awaitable[str | None]) -> str:
    try:
        return await probe or "ok"
    except SchedulerError as error:  # also a right that was taken away, a value that cannot be read
        return error.reason if isinstance(error, StoreUnavailable) else str(error)


@dataclass(slots=True)
class Parts:
    """What the endpoints reach through `parts(request)`."""

    store: Store
    stream: Stream
    types: Types
    intake: Intake
    waiters: Waiters
    gauges: Gauges
    readiness: Readiness
    guard: Guard
    services: Sequence[Service]


def build_parts(settings: Settings, store: Store, stream: Stream, registry: Registry) -> Parts:
    """All of them, for one API process."""
    backlog = Backlog(store, settings.max_backlog)
    publisher = Publisher(stream)
    intake = Intake(store, publisher, backlog)
    types = Types(store, registry)
    waiters, guard, gauges = Waiters(store), Guard(settings, store), Gauges(store, stream)
    services = (*intake.lanes, publisher, backlog, types, waiters, guard.keys, guard.audit)
    readiness = Readiness(store, stream, services)
    return Parts(store, stream, types, intake, waiters, gauges, readiness, guard, services)
