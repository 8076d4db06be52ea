"""Moves ids whose due time has come from the retry ZSET to the stream."""

from __future__ import annotations

import time

from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

BATCH = 100
PERIOD_SECONDS = 0.1
CLOCK_SECONDS = 5.0


class Promoter(Service):
    """PostgreSQL's clock decides what is due; between two looks at it this process's monotonic clock carries it on."""

    name = "promoter"

    def __init__(self, store: Store, stream: Stream) -> None:
        super().__init__()
        self._store, self._stream = store, stream
        self._read_at = -CLOCK_SECONDS
        self._ahead_ms = 0.0

    async def tick(self) -> float:
        if time.monotonic() - self._read_at >= CLOCK_SECONDS:
            clock = await self._store.clock_ms()
            # Read after the answer: an error can only make this clock late, and nothing is promoted early.
            self._read_at = time.monotonic()
            self._ahead_ms = clock - self._read_at * 1000
        moved = await self._stream.promote(time.monotonic() * 1000 + self._ahead_ms, BATCH)
        return 0.0 if moved == BATCH else PERIOD_SECONDS
