"""Runs one claimed job and turns whatever its handler does into exactly one Outcome. Knows no store."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import time
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec

from scheduler.errors import Discard, Snooze
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.jobs.lifecycle import Transition, after_failure
from scheduler.jobs.registry import Handler
from scheduler.jobs.retry import RetryPolicy

MAX_RESULT_BYTES = 1 << 20
MAX_ERROR_CHARACTERS = 4_000
_log = logging.getLogger("scheduler.job")


class JobContext:
    """What a handler is told about its job. `cancelled` turns true when the job was cancelled or its lease lost."""

    __slots__ = ("_deadline", "_job", "cancelled")

    def __init__(self, job: ClaimedJob, deadline: float | None) -> None:
        self._job, self._deadline, self.cancelled = job, deadline, False

    @property
    def job_id(self) -> str:
        """The job's uuid."""
        return id_text(self._job.id)

    @property
    def attempt(self) -> int:
        """Number of this try, from 1."""
        return self._job.attempt

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is timed out (UTC), None when the job has no `timeout_seconds`."""
        return None if self._deadline is None else datetime.fromtimestamp(self._deadline, UTC)

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry job id, type and attempt."""
        return _JobLog(_log, {"job_id": self.job_id, "type": self._job.type, "attempt": self.attempt})


class _JobLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {"facts": dict(self.extra or {})}}


class Executor:
    """`threads` is how many plain handlers may run at once."""

    def __init__(self, retry: RetryPolicy, *, threads: int, rng: random.Random) -> None:
        self._retry, self._rng = retry, rng
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="job")
        self.running: dict[bytes, JobContext] = {}

    async def run(self, job: ClaimedJob, handler: Handler) -> Outcome:
        """Raises nothing but CancelledError, and that only when the calling task is being cancelled."""
        deadline = time.time() + job.timeout_seconds if job.timeout_seconds else None
        context = self.running[job.id] = JobContext(job, deadline)
        try:
            payload = msgspec.json.decode(job.payload)
            value = await self._call(handler, context, payload, job.timeout_seconds)
            return Outcome.complete(job, None if value is None else _encode(value))
        except Snooze as signal:
            return Outcome.snooze(job, signal.seconds)
        except Discard as signal:
            return Outcome.fail(job, _describe(signal))
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) and task.cancelling():
                raise
            return self.failed(job, "the handler was cancelled from within")
        except (Exception, SystemExit) as error:
            return self.failed(job, _describe(error))
        finally:
            del self.running[job.id]

    def failed(self, job: ClaimedJob, error: str) -> Outcome:
        """A failed attempt: another one later, or the dead letters."""
        if after_failure(job.attempt, job.max_attempts) is Transition.FAIL:
            return Outcome.fail(job, error)
        return Outcome.retry(job, error, self._retry.delay(job.attempt, self._rng.random()))

    async def _call(self, handler: Handler, context: JobContext, payload: Any, timeout: float | None) -> Any:
        if timeout is None and handler.is_async:
            return await handler.function(context, payload)
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                if handler.is_async:
                    return await handler.function(context, payload)
                run = contextvars.copy_context().run
                return await asyncio.get_running_loop().run_in_executor(
                    self._threads, run, handler.function, context, payload
                )
        except TimeoutError as error:
            if not scope.expired():
                raise
            context.cancelled = True
            raise TimeoutError(f"timed out after {timeout:g} s (timeout_seconds)") from error

    def close(self) -> None:
        """Start no more plain handlers; those that run are left alone."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _encode(value: Any) -> str:
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, UnicodeEncodeError, RecursionError) as error:
        raise TypeError(f"the handler's return value is not JSON: {error}") from error
    if len(encoded) > MAX_RESULT_BYTES:
        raise ValueError(f"the handler's return value has {len(encoded)} bytes as JSON; {MAX_RESULT_BYTES} are allowed")
    return encoded.decode()


def _describe(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(its message could not be made)"
    words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    clean = words.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_ERROR_CHARACTERS else clean[: MAX_ERROR_CHARACTERS - 1] + "…"
