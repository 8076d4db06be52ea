"""Where claimed jobs run: a fixed set of long-lived tasks that pull from what is in hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from scheduler.facts.facts import HANDLER_ENDED, HANDLER_STARTED, UNHANDLED, tell
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.jobs.registry import Registry
from scheduler.worker.executor import Executor
from scheduler.worker.hands import Hands

YIELD_AFTER = 128


class Slots:
    """`concurrency` long-lived tasks that pull claimed jobs; a handler that never waits costs no task switch."""

    def __init__(self, executor: Executor, registry: Registry, hands: Hands, unhandled_seconds: float) -> None:
        self._executor, self._registry, self._hands = executor, registry, hands
        self._patience_seconds = unhandled_seconds
        self._idle: deque[asyncio.Event] = deque()
        self._waking = 0

    @property
    def busy(self) -> bool:
        """Whether some slot runs a job."""
        return len(self._idle) < self._hands.concurrency

    def put(self, jobs: Sequence[ClaimedJob]) -> None:
        """Queue jobs for the slots; those without a handler here go back."""
        known, unhandled = self._registry, []
        for job in jobs:
            if job.type in known:
                self._hands.queue.append(job)
            else:
                unhandled.append(job)
        if unhandled:
            tell(UNHANDLED, unhandled, types=sorted({job.type for job in unhandled}))
            for job in unhandled:
                self._hands.finished(Outcome.unhandled(job, self._patience_seconds))
        self._wake()

    def _wake(self) -> None:
        if self._hands.queue and self._idle and not self._waking:
            self._waking += 1
            self._idle.popleft().set()

    async def run(self) -> None:
        """One slot. Cancelled while it runs a job, it releases that job unburned."""
        hands, wake = self._hands, asyncio.Event()
        while True:
            wake.clear()
            self._idle.append(wake)
            self._wake()
            await wake.wait()
            self._waking -= 1
            ran = 0
            while hands.queue:
                job = hands.queue.popleft()
                self._wake()
                hands.finished(await self._outcome(job))
                ran += 1
                if ran % YIELD_AFTER == 0:
                    await asyncio.sleep(0)

    async def _outcome(self, job: ClaimedJob) -> Outcome:
        handler = self._registry.get(job.type)
        assert handler is not None
        try:
            if HANDLER_STARTED.ears:
                tell(HANDLER_STARTED, [job])
            outcome = await self._executor.run(job, handler)
            if HANDLER_ENDED.ears:
                tell(HANDLER_ENDED, [outcome])
            return outcome
        except asyncio.CancelledError:
            self._hands.finished(Outcome.release(job))
            raise
