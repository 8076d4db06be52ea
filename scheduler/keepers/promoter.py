"""Moves ids whose due time has come from the retry ZSET to the stream."""

from __future__ import annotations

import math
import time

from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

BATCH = 100
PERIOD_SECONDS = 0.1
IDLE_SECONDS = 2.0
CLOCK_SECONDS = 5.0


class Promoter(Service):
    """Sleeps until the first id is due, two seconds at most: what other processes schedule meanwhile it does not hear.

    PostgreSQL's clock decides what is due; between two looks at it this process's monotonic clock carries it on.
    """

    name = "promoter"

    def __init__(self, store: Store, stream: Stream) -> None:
        super().__init__()
        self._store, self._stream = store, stream
        self._read_at = -CLOCK_SECONDS
        self._ahead_ms = 0.0
        self._next_ms = math.inf
        stream.on_scheduled = self._hear

    def _hear(self, earliest_ms: float) -> None:
        if earliest_ms < self._next_ms:
            self.wake()

    async def tick(self) -> float:
        self._next_ms = await self._stream.next_due()
        if self._next_ms == math.inf:
            return IDLE_SECONDS
        if (wait := (self._next_ms - await self._now_ms()) / 1000) > 0:
            return min(wait, IDLE_SECONDS)
        moved = await self._stream.promote(await self._now_ms(), BATCH)
        return 0.0 if moved == BATCH else PERIOD_SECONDS

    async def _now_ms(self) -> float:
        if time.monotonic() - self._read_at >= CLOCK_SECONDS:
            clock = await self._store.clock_ms()
            # Read after the answer: an error can only make this clock late, and nothing is promoted early.
            self._read_at = time.monotonic()
            self._ahead_ms = clock - self._read_at * 1000
        return time.monotonic() * 1000 + self._ahead_ms
