"""Long polls: one query every few milliseconds asks for all the jobs that somebody waits for."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from scheduler.errors import BacklogFull
from scheduler.service import Service, pause
from scheduler.storage.store import Store

PERIOD_SECONDS = 0.03
IDLE_SECONDS = 1.0
MAX_WAITERS = 10_000


class Waiters(Service):
    """Whoever waits for a job to become final."""

    name = "waiters"

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store
        self._events: defaultdict[bytes, set[asyncio.Event]] = defaultdict(set)

    async def wait(self, job_id: bytes, seconds: float) -> None:
        """Return when the job is final (or gone), or after `seconds`. Raises BacklogFull past MAX_WAITERS."""
        if len(self._events) >= MAX_WAITERS:
            raise BacklogFull(len(self._events), MAX_WAITERS)
        if not self._events:
            self.wake()
        final = asyncio.Event()
        self._events[job_id].add(final)
        try:
            await pause(final, seconds)
        finally:
            self._events[job_id].discard(final)
            if not self._events[job_id]:
                del self._events[job_id]

    async def tick(self) -> float:
        if not self._events:
            return IDLE_SECONDS
        for job_id in await self._store.finished(list(self._events)):
            for final in self._events.get(job_id, ()):
                final.set()
        return PERIOD_SECONDS
