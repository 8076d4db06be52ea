"""What this worker holds, from a delivery to the acknowledgement that follows its settling."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.service import pause

MAX_BATCH = 512
PREFETCH_SECONDS = 0.05
MEMORY_SECONDS = 0.1
OVERDUE_SECONDS = 0.1


class Hands:
    """What this worker holds, bounded by `concurrency` plus what it finishes in PREFETCH_SECONDS."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.entries: dict[bytes, bytes] = {}  # job id -> stream entry to acknowledge; none when it is already
        self.held: set[bytes] = set()  # entries that some job in hand or an ack under way accounts for
        self.queue: deque[ClaimedJob] = deque()  # claimed, no slot yet
        self.unsettled: deque[Outcome] = deque()
        self.cancelled: set[bytes] = set()  # jobs in hand that have been cancelled
        self.changed = asyncio.Event()
        self._rate, self._finished, self._since = 0.0, 0, time.monotonic()
        self.queued = self._queued_before = 0  # how many ever were, now and at the last look
        self._looked_at = 0.0

    @property
    def free(self) -> int:
        """How many slots nothing in hand is meant for."""
        return self.concurrency + len(self.unsettled) - len(self.entries)

    def room(self) -> int:
        """How many more jobs may be claimed now."""
        self._measure()
        ahead = min(MAX_BATCH, self._rate * PREFETCH_SECONDS)
        if len(self.unsettled) >= 2 * MAX_BATCH:
            return 0
        return min(MAX_BATCH, self.free + int(ahead))

    def finished(self, outcome: Outcome) -> None:
        """An attempt has its outcome."""
        self.unsettled.append(outcome)
        self._finished += 1
        self.changed.set()

    async def change(self, seconds: float) -> None:
        """Wait until something here changes, at most `seconds`. Look first: what is looked at is no change any more."""
        self.changed.clear()
        await pause(self.changed, seconds)

    def overdue(self) -> int:
        """How many jobs, the first in the queue, were there at the last look, OVERDUE_SECONDS ago or more."""
        if (now := time.monotonic()) < self._looked_at + OVERDUE_SECONDS:
            return 0
        before, self._looked_at, self._queued_before = self._queued_before, now, self.queued
        return max(0, before - self.queued + len(self.queue))

    def _measure(self) -> None:
        """How many attempts end in a second, by what ended lately: a burst that is over is soon forgotten."""
        now = time.monotonic()
        if (elapsed := now - self._since) >= 0.01:
            weight = -math.expm1(-elapsed / MEMORY_SECONDS)
            self._rate += weight * (self._finished / elapsed - self._rate)
            self._finished, self._since = 0, now
