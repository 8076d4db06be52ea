"""Runs one claimed job and turns whatever its handler does into exactly one Outcome. Knows no store."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from traceback import TracebackException
from typing import Any

import msgspec

from scheduler.errors import Discard, Snooze, is_snooze
from scheduler.facts.facts import BACKOFF_FAILED, tell
from scheduler.facts.log import current_job
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.jobs.lifecycle import Transition, after_failure
from scheduler.jobs.registry import Handler
from scheduler.jobs.retry import RetryPolicy
from scheduler.worker.bodies import Bodies

MAX_RESULT_BYTES = 1 << 20
MAX_ERROR_CHARACTERS = 4_000
MAX_FRAMES = 20
MAX_TRACE_BYTES = 8_000
_log = logging.getLogger("scheduler.job")
_OWN = __file__.rpartition("/")[0]


class JobContext:
    """What a handler is told about its job, and the worker's `resources` by name.

    `cancelled` turns true when what the handler does is no longer wanted: the job was cancelled or timed out, its lease
    was lost, or the worker ends.
    """

    __slots__ = ("_deadline", "_job", "cancelled", "resources")

    def __init__(self, job: ClaimedJob, deadline: float | None, resources: Mapping[str, Any]) -> None:
        self._job, self._deadline, self.cancelled, self.resources = job, deadline, False, resources

    @property
    def job_id(self) -> str:
        """The job's uuid."""
        return id_text(self._job.id)

    @property
    def attempt(self) -> int:
        """Number of this try, from 1."""
        return self._job.attempt

    @property
    def max_attempts(self) -> int:
        """How many tries the job has."""
        return self._job.max_attempts

    @property
    def is_last(self) -> bool:
        """Whether this is the last try: if it fails, the job goes to the dead letters."""
        return self._job.attempt >= self._job.max_attempts

    @property
    def deadline(self) -> datetime | None:
        """When this attempt is timed out (UTC), None when neither the job nor its type has a time-out."""
        return None if self._deadline is None else datetime.fromtimestamp(self._deadline, UTC)

    @property
    def about(self) -> dict[str, object]:
        """What log lines carry."""
        return {"job_id": self.job_id, "type": self._job.type, "attempt": self.attempt}

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines carry job id, type and attempt."""
        return _JobLog(_log, self.about)


class _JobLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(self.extra or {}), **(kwargs.get("extra") or {})}}


class Executor:
    """`stopping`, once set, has what was cut short given back unburned. `on_worn`: see `Bodies`.

    `resources` are what every handler finds in its context.
    """

    def __init__(
        self, retry: RetryPolicy, *, concurrency: int, rng: random.Random, on_worn: Callable[[], None] = lambda: None
    ) -> None:
        self._retry, self._rng = retry, rng
        self.bodies = Bodies(concurrency, on_worn)
        self.running: dict[bytes, JobContext] = {}
        self.stopping = False
        self.resources: Mapping[str, Any] = {}

    async def run(self, job: ClaimedJob, handler: Handler) -> Outcome:
        """Raises nothing, whatever the handler does."""
        seconds = job.timeout_seconds or handler.timeout_seconds
        deadline = time.time() + seconds if seconds else None
        context = self.running[job.id] = JobContext(job, deadline, self.resources)
        before = current_job.set(context)
        try:
            payload = msgspec.json.decode(job.payload or b"null")
            value, error = await self.bodies.call(job, handler, context, payload, seconds)
            if error is None:
                return Outcome.complete(job, None if value is None else _encode(value))
        except BaseException as raised:
            error = raised
        finally:
            del self.running[job.id]
            current_job.reset(before)
        return self._after(job, handler, error)

    def _after(self, job: ClaimedJob, handler: Handler, error: BaseException) -> Outcome:
        """What becomes of a job whose handler raised this."""
        words = _describe(error)
        match error:
            case Snooze() if is_snooze(seconds := getattr(error, "seconds", None)):
                return Outcome.snooze(job, seconds)
            case Snooze():
                words = f"{type(error).__name__} has no seconds: its __init__ must call that of Snooze"
            case Discard():
                return Outcome.fail(job, words, _trace(error))
            case _ if self.stopping:
                return Outcome.release(job)
            case asyncio.CancelledError():
                words = "the handler was cancelled from within"
        if after_failure(job.attempt, job.max_attempts) is Transition.FAIL:
            return Outcome.fail(job, words, _trace(error))
        return Outcome.retry(job, words, self._delay(job, handler), _trace(error))

    def _delay(self, job: ClaimedJob, handler: Handler) -> float:
        """Seconds until the next attempt, by the settings where the type's own function cannot tell."""
        chance = self._rng.random()
        try:
            return self._retry.delay_of(handler.backoff, job.attempt, chance)
        except BaseException as error:
            tell(BACKOFF_FAILED, type=job.type, trace=error)
            return self._retry.delay(job.attempt, chance)


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
    clean = _storable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return clean if len(clean) <= MAX_ERROR_CHARACTERS else clean[: MAX_ERROR_CHARACTERS - 1] + "…"


def _trace(error: BaseException) -> str | None:
    """The traceback, of each error in the chain the last frames, without our own; None when nothing is left."""
    try:
        told = TracebackException.from_exception(error, limit=-MAX_FRAMES)
        each, frames = told, 0
        while each:
            each.stack[:] = [frame for frame in each.stack if not frame.filename.startswith(_OWN)]
            frames, each = frames + len(each.stack), each.__cause__ or each.__context__  # type: ignore[assignment]
        text = "".join(part if len(part) < 1_000 else part[:1_000] + "…\n" for part in told.format())
    except BaseException:
        return None
    return _storable(text).encode()[-MAX_TRACE_BYTES:].decode(errors="ignore") if frames else None


def _storable(text: str) -> str:
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
