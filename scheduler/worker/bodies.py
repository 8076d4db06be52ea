"""Calls handlers: in the loop or in a thread, within their time, and never lets one do harm that does not end.

No body can be killed. One that goes on after its time-out is given up and counted as lost until it returns; a worker
that has lost too many asks to be replaced.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from scheduler.facts.facts import BODY_LOST, tell
from scheduler.jobs.job import ClaimedJob, id_text
from scheduler.jobs.registry import Handler

CLEANUP_SECONDS = 5.0  # for an async body, to end after it was cancelled
MOST_LOST = 32  # at least; as many as the worker runs at once, if these are more


Ended = tuple[Any, BaseException | None]  # what a body returned, or raised


class Bodies:
    """`on_worn` is called when too many are lost. Threads suffice for all: a plain body never waits for one."""

    def __init__(self, concurrency: int, on_worn: Callable[[], None]) -> None:
        self._most_lost, self._on_worn = max(MOST_LOST, concurrency), on_worn
        self._threads = ThreadPoolExecutor(concurrency + self._most_lost, thread_name_prefix="job")
        self.lost: set[asyncio.Future[Any] | Future[Any]] = set()

    async def call(self, job: ClaimedJob, handler: Handler, context: Any, payload: Any, seconds: float | None) -> Ended:
        """Raises nothing that the handler raises. After `seconds` its end is a TimeoutError, however it ends."""
        if seconds is None:
            return await self._run(job, handler, context, payload)
        body = asyncio.get_running_loop().create_task(self._timed(job, handler, context, payload))
        try:
            await asyncio.wait([body], timeout=seconds)
            if body.done() and body.result()[1] <= seconds:
                return body.result()[0]
            context.cancelled = True
            timeout = TimeoutError(f"timed out after {seconds:g} s (timeout_seconds)")
        finally:
            body.cancel()
            await asyncio.wait([body], timeout=CLEANUP_SECONDS)
        if body.done():
            timeout.__cause__ = body.result()[0][1]  # where it was cut short
        else:
            self._lose(job, body)
        return None, timeout

    async def _timed(self, *call: Any) -> tuple[Ended, float]:
        began = time.monotonic()
        return await self._run(*call), time.monotonic() - began

    async def _run(self, job: ClaimedJob, handler: Handler, context: Any, payload: Any) -> Ended:
        """One call; nothing that it raises gets into the loop, which some exceptions would end."""
        try:
            if handler.is_async:
                return await handler.function(context, payload), None
            value, error = await self._in_thread(job, handler.function, context, payload)
            return (await value if inspect.isawaitable(value) else value), error
        except BaseException as error:
            return None, error

    async def _in_thread(self, job: ClaimedJob, *call: Any) -> Ended:
        thread = self._threads.submit(contextvars.copy_context().run, _tried, *call)
        try:
            return await asyncio.wrap_future(thread)
        except asyncio.CancelledError:
            if not thread.done():
                self._lose(job, thread)
            raise

    def _lose(self, job: ClaimedJob, body: asyncio.Future[Any] | Future[Any]) -> None:
        self.lost.add(body)
        body.add_done_callback(self.lost.discard)
        tell(BODY_LOST, job_id=id_text(job.id), type=job.type, lost=len(self.lost), most=self._most_lost)
        if len(self.lost) >= self._most_lost:
            self._on_worn()

    def close(self) -> None:
        """Start no more; those that run are left alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _tried(function: Callable[[Any, Any], Any], context: Any, payload: Any) -> Ended:
    """What the function returns or raises, as a value: a future cannot hold every exception (StopIteration)."""
    try:
        return function(context, payload), None
    except BaseException as error:
        return None, error
