"""Admission: how many jobs are due or run, and whether there is room for more."""

from __future__ import annotations

import asyncio
import time

from scheduler.errors import BacklogFull
from scheduler.facts.facts import REFUSED, tell
from scheduler.service import Service
from scheduler.storage.store import Store


class Backlog(Service):
    """How many jobs are due or run: counted in PostgreSQL while jobs come in, what was admitted since added on top."""

    name = "backlog"
    FRESH_SECONDS = 0.1
    COST_SHARE = 20

    def __init__(self, store: Store, limit: int) -> None:
        super().__init__()
        self._store, self._limit = store, limit
        self._counted, self._since, self._admitted = 0, 0, 0
        self._counted_at = -1e9
        self._counting = asyncio.Lock()

    @property
    def size(self) -> int:
        """Jobs that are due or run, as far as this process knows."""
        return self._counted + self._since + self._admitted

    async def admit(self, jobs: int) -> None:
        """Keep room for `jobs` until `settle`. Raises BacklogFull when there is none, after having counted again."""
        if self.size + jobs > self._limit:
            async with self._counting:
                if time.monotonic() - self._counted_at > self.FRESH_SECONDS:
                    await self._count()
        if self.size + jobs > self._limit:
            tell(REFUSED, jobs)
            raise BacklogFull(self.size, self._limit)
        self._admitted += jobs

    def settle(self, admitted: int, accepted: int) -> None:
        """Of the jobs admitted, so many were accepted; the room of the others is free again."""
        self._admitted -= admitted
        self._since += accepted

    async def tick(self) -> float:
        if not self._since and not self._admitted:
            return 1.0
        async with self._counting:
            seconds = await self._count()
        return max(1.0, seconds * self.COST_SHARE)

    async def _count(self) -> float:
        began = time.monotonic()
        before = self._since
        self._counted = await self._store.backlog(self._limit + 1)
        self._since -= before
        self._counted_at = time.monotonic()
        return self._counted_at - began
