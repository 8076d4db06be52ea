"""Keeps both stores small: trims acknowledged entries off the stream, deletes jobs whose retention has passed."""

from __future__ import annotations

import time

from scheduler.facts.facts import PRUNED, tell
from scheduler.jobs.job import IdSequence
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

TRIM_SECONDS = 0.5
PRUNE_SECONDS = 60.0
BATCH = 1_000


class Pruner(Service):
    """Trims twice a second, prunes once a minute, or until nothing is left to prune."""

    name = "pruner"

    def __init__(self, store: Store, stream: Stream, retention_seconds: float) -> None:
        super().__init__()
        self._store, self._stream, self._retention = store, stream, retention_seconds
        self._prune_at = 0.0

    async def tick(self) -> float:
        await self._stream.trim()
        if time.monotonic() >= self._prune_at:
            before = time.time_ns() - int(self._retention * 1e9)
            oldest_kept = IdSequence().take(1, max(before, 0), bytes(8))[0]
            pruned = await self._store.prune(oldest_kept, self._retention, BATCH)
            tell(PRUNED, pruned)
            if pruned < BATCH:
                self._prune_at = time.monotonic() + PRUNE_SECONDS
        return TRIM_SECONDS
