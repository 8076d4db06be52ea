"""Where claimed jobs run, at most `concurrency` at once: each in a context of its own, and in a task of its own.

A task is shared by jobs that never wait, one after the other, which saves most of its cost; once a job has waited, or
has asked for its task to be cancelled, its task ends with it. So nothing that a handler does to its task or its context
variables reaches another job.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from types import coroutine
from typing import Any

import msgspec

from scheduler.errors import JobNotFound, StoreUnavailable
from scheduler.facts.facts import HANDLER_ENDED, HANDLER_STARTED, PAYLOAD_MISSED, tell
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.jobs.registry import Handler, Registry
from scheduler.worker.executor import Executor
from scheduler.worker.hands import Hands

YIELD_AFTER = 128
FETCH_AGAIN_SECONDS = 1.0


class Slots:
    """Starts what is in hand as room comes free. Made when the process is set up: its context is every job's first.

    `fetch` brings a large payload, which a claim left behind.
    """

    def __init__(
        self, executor: Executor, registry: Registry, hands: Hands, fetch: Callable[[bytes], Awaitable[bytes]]
    ) -> None:
        self._executor, self._registry, self._hands, self._fetch = executor, registry, hands, fetch
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self._starting = False  # one task at a time: it may turn out to run all that is in hand
        self.running: set[asyncio.Task[None]] = set()

    @property
    def starved(self) -> bool:
        """Whether a job waits although there is room, and nothing is on its way to take it up."""
        return bool(self._hands.queue) and len(self.running) < self._hands.concurrency and not self._starting

    def put(self, jobs: Sequence[ClaimedJob]) -> None:
        """Queue jobs for the slots."""
        self._hands.queue.extend(jobs)
        self._fill()

    def _fill(self) -> None:
        if self.starved:
            self._starting = True
            self.running.add(self._loop.create_task(self._pull()))

    async def _pull(self) -> None:
        """Run what waits in hand until a job has waited itself; a task that was cancelled takes up no other job."""
        task, queue, ran = asyncio.current_task(), self._hands.queue, 0
        assert task
        self._starting = False
        try:
            while queue and not task.cancelling():
                job = queue.popleft()
                self._fill()
                handler = self._registry.get(job.type)
                if handler is None or job.id in self._hands.cancelled:
                    self._hands.finished(Outcome.release(job))
                elif await _within(self._context.copy(), self._run(job, handler)):
                    break
                if (ran := ran + 1) % YIELD_AFTER == 0:
                    await asyncio.sleep(0)
        finally:
            self.running.discard(task)
            self._fill()

    async def _run(self, job: ClaimedJob, handler: Handler) -> None:
        outcome = None
        try:
            if job.payload is None:
                job = msgspec.structs.replace(job, payload=await self._fetch(job.id))
            if HANDLER_STARTED.ears:
                tell(HANDLER_STARTED, [job])
            outcome = await self._executor.run(job, handler)
            if HANDLER_ENDED.ears:
                tell(HANDLER_ENDED, [outcome])
        except (StoreUnavailable, JobNotFound) as error:
            tell(PAYLOAD_MISSED, [job], reason=error)
        finally:
            self._hands.finished(
                outcome or Outcome.release(job, 0.0 if self._executor.stopping else FETCH_AGAIN_SECONDS)
            )

    def cancel(self) -> set[asyncio.Task[None]]:
        """Cut short what runs, to be given back; returns the tasks that are to end."""
        self._executor.stopping = True
        for context in self._executor.running.values():
            context.cancelled = True
        for task in self.running:
            task.cancel()
        return set(self.running)


@coroutine
def _within(context: contextvars.Context, body: Coroutine[Any, Any, None]) -> Generator[Any, Any, bool]:
    """Run a coroutine in this task, yet in a context of its own. Returns whether it has waited."""
    step, argument, waited = body.send, None, False
    while True:
        try:
            future = context.run(step, argument)
        except StopIteration:
            return waited
        waited = True
        try:
            step, argument = body.send, (yield future)
        except BaseException as error:
            step, argument = body.throw, error
