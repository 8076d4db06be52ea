"""Puts committed ids on the stream, in batches. What Redis does not take, the reconciler makes up."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from scheduler.service import Service, pause
from scheduler.storage.stream import MAX_IDS_A_CALL, Stream

MAX_UNPUBLISHED = 200_000


class Publisher(Service):
    """Puts committed ids on the stream, in batches. What Redis does not take, the reconciler makes up."""

    name = "publisher"

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream
        self._ids: deque[bytes] = deque(maxlen=MAX_UNPUBLISHED)
        self._arrived = asyncio.Event()

    def put(self, job_ids: Sequence[bytes]) -> None:
        """Have these ids published soon."""
        self._ids.extend(job_ids)
        self._arrived.set()

    async def tick(self) -> float:
        if not self._ids:
            self._arrived.clear()
            await pause(self._arrived, 0.5)
            return 0.0
        await self._stream.publish([self._ids.popleft() for _ in range(min(len(self._ids), MAX_IDS_A_CALL))])
        return 0.0
