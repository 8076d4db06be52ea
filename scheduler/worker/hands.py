"""What this worker holds, from a delivery to the acknowledgement that follows its settling."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.service import pause

MAX_BATCH = 512
PREFETCH_SECONDS = 0.05


class Hands:
    """What this worker holds, bounded by `concurrency` plus what it finishes in PREFETCH_SECONDS."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.entries: dict[bytes, bytes] = {}  # job id -> stream entry to acknowledge
        self.held: set[bytes] = set()  # entries that some job in hand or an ack under way accounts for
        self.queue: deque[ClaimedJob] = deque()  # claimed, no slot yet
        self.unsettled: deque[Outcome] = deque()
        self.cancelled: set[bytes] = set()  # jobs in hand that have been cancelled
        self.changed = asyncio.Event()
        self._rate, self._finished, self._since = 0.0, 0, time.monotonic()

    def room(self) -> int:
        """How many more jobs may be claimed now."""
        ahead = min(MAX_BATCH, self._rate * PREFETCH_SECONDS)
        started = len(self.entries) - len(self.unsettled)
        if len(self.unsettled) >= 2 * MAX_BATCH:
            return 0
        return min(MAX_BATCH, int(self.concurrency + ahead) - started)

    def finished(self, outcome: Outcome) -> None:
        """An attempt has its outcome."""
        self.unsettled.append(outcome)
        self._finished += 1
        self.changed.set()

    async def change(self, seconds: float) -> None:
        """Wait until something here changes, at most `seconds`. Look first: what is looked at is no change any more."""
        self.changed.clear()
        await pause(self.changed, seconds)

    def measure(self) -> None:
        """Learn how many attempts end in a second."""
        now = time.monotonic()
        if (elapsed := now - self._since) >= 0.1:
            self._rate = 0.5 * self._rate + 0.5 * self._finished / elapsed
            self._finished, self._since = 0, now
