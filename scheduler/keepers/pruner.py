"""Keeps both stores small: trims acknowledged entries off the stream, deletes jobs whose retention has passed."""

from __future__ import annotations

import time

from scheduler.jobs.job import IdSequence
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

TRIM_SECONDS = 0.5
IDLE_SECONDS = 2.0
PRUNE_SECONDS = 60.0
BATCH = 5_000
SHARE = 0.5
_FIRST = bytes(16)


class Pruner(Service):
    """Trims a stream that is not empty twice a second; prunes once a minute, with pauses, until nothing is left."""

    name = "pruner"

    def __init__(self, store: Store, stream: Stream, retention_seconds: float) -> None:
        super().__init__()
        self._store, self._stream, self._retention = store, stream, retention_seconds
        self._after = _FIRST
        self._trim_at = self._prune_at = 0.0

    async def tick(self) -> float:
        full = (began := time.monotonic()) >= self._prune_at and await self._prune()
        if began >= self._trim_at:
            self._trim_at = began + await self._trim()
        if full:
            return (time.monotonic() - began) * (1 / SHARE - 1)
        return max(0.01, self._trim_at - time.monotonic())

    async def _trim(self) -> float:
        """Returns when to look again: an empty stream is asked for its length only."""
        if not await self._stream.length():
            return IDLE_SECONDS
        await self._stream.trim()
        return TRIM_SECONDS

    async def _prune(self) -> bool:
        """Delete one batch, the next one from where it ended. Returns whether it was full."""
        before = time.time_ns() - int(self._retention * 1e9)
        oldest_kept = IdSequence().take(1, max(before, 0), bytes(8))[0]
        pruned = await self._store.prune(self._after, oldest_kept, self._retention, BATCH)
        if len(pruned) == BATCH:
            self._after = pruned[-1]
            return True
        self._after, self._prune_at = _FIRST, time.monotonic() + PRUNE_SECONDS
        return False
