"""Runs one claimed job and turns whatever its handler does into exactly one Outcome. Knows no store."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from scheduler.errors import Discard, Snooze, is_snooze
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.jobs.lifecycle import Transition, after_failure
from scheduler.jobs.registry import Handler
from scheduler.jobs.retry import RetryPolicy
from scheduler.worker.bodies import Bodies

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
    """`stopping`, once set, has what was cut short given back unburned. `on_worn`: see `Bodies`."""

    def __init__(
        self, retry: RetryPolicy, *, concurrency: int, rng: random.Random, on_worn: Callable[[], None] = lambda: None
    ) -> None:
        self._retry, self._rng = retry, rng
        self.bodies = Bodies(concurrency, on_worn)
        self.running: dict[bytes, JobContext] = {}
        self.stopping = False

    async def run(self, job: ClaimedJob, handler: Handler) -> Outcome:
        """Raises nothing, whatever the handler does."""
        seconds = job.timeout_seconds
        context = self.running[job.id] = JobContext(job, time.time() + seconds if seconds else None)
        try:
            payload = msgspec.json.decode(job.payload)
            value, error = await self.bodies.call(job, handler, context, payload, seconds)
            if error is None:
                return Outcome.complete(job, None if value is None else _encode(value))
        except BaseException as raised:
            error = raised
        finally:
            del self.running[job.id]
        return self._after(job, error)

    def _after(self, job: ClaimedJob, error: BaseException) -> Outcome:
        """What becomes of a job whose handler raised this."""
        match error:
            case Snooze() if is_snooze(seconds := getattr(error, "seconds", None)):
                return Outcome.snooze(job, seconds)
            case Snooze():
                return self.failed(job, f"{type(error).__name__} has no seconds: its __init__ must call that of Snooze")
            case Discard():
                return Outcome.fail(job, _describe(error))
            case _ if self.stopping:
                return Outcome.release(job)
            case asyncio.CancelledError():
                return self.failed(job, "the handler was cancelled from within")
        return self.failed(job, _describe(error))

    def failed(self, job: ClaimedJob, error: str) -> Outcome:
        """A failed attempt: another one later, or the dead letters."""
        if after_failure(job.attempt, job.max_attempts) is Transition.FAIL:
            return Outcome.fail(job, error)
        return Outcome.retry(job, error, self._retry.delay(job.attempt, self._rng.random()))


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
    except BaseException:
        text = "(its message could not be made)"
    words = f"{type(error).__name__}: {text}" if text else type(error).__name__
    clean = words.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return clean if len(clean) <= MAX_ERROR_CHARACTERS else clean[: MAX_ERROR_CHARACTERS - 1] + "…"
