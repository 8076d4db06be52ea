"""Long polls: one query every few milliseconds asks for all the jobs that somebody waits for."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from starlette.exceptions import HTTPException
from starlette.types import Receive

from scheduler.api.server import most_connections
from scheduler.errors import InvalidJob
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
        self._store, self._count, self._most = store, 0, min(MAX_WAITERS, most_connections() // 2)
        self._events: defaultdict[bytes, set[asyncio.Event]] = defaultdict(set)

    async def wait(self, job_id: bytes, seconds: float, receive: Receive) -> None:
        """Return when the job is final (or gone), or after `seconds`; `receive` tells that the client has hung up.

        Raises HTTPException when too many wait already, InvalidJob when this client does no longer.
        """
        if self._count >= self._most:
            remedy = "retry in a moment, or ask without `wait`"
            raise HTTPException(429, f"{self._count} clients wait for jobs already; {remedy}", {"retry-after": "1"})
        if not self._events:
            self.wake()
        final = asyncio.Event()
        hung_up = asyncio.ensure_future(receive())
        hung_up.add_done_callback(lambda _: final.set())
        self._events[job_id].add(final)
        self._count += 1
        try:
            await pause(final, seconds)
            if hung_up.done():
                raise InvalidJob("wait", "the connection ended before the job did", status=400)
        finally:
            hung_up.cancel()
            self._count -= 1
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
