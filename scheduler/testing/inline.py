"""Handlers run in the test's own process: one attempt through the worker's executor, with no store and no waiting."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

import scheduler.samples  # noqa: F401  (registers the built-in types)
from scheduler import settings
from scheduler.client import new_id
from scheduler.errors import InvalidJob, UnknownType
from scheduler.handlers import Job
from scheduler.jobs.job import ClaimedJob, id_bytes, id_text
from scheduler.jobs.lifecycle import Status, apply
from scheduler.jobs.registry import Handler, handlers
from scheduler.submission.submission import Submission
from scheduler.worker.executor import Executor

MOST_SNOOZES = 100


@dataclass(frozen=True, slots=True)
class AttemptOutcome:
    """The job as one attempt would leave it: after a retry or a snooze PENDING, with a delay.

    `attempt` is what the job would show: a snooze gives it back. `result` has been through JSON.
    """

    status: Status
    attempt: int
    result: Any = None
    error: str | None = None
    delay_seconds: float | None = None


async def run_inline(
    what: str | Callable[..., Any],
    payload: dict[str, Any],
    *,
    attempt: int = 1,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    job_id: str | None = None,
    resources: Mapping[str, Any] | None = None,
) -> AttemptOutcome:
    """Run one attempt of a type, or of a handler function, as a worker would; what is not given, by type and settings.

    Raises UnknownType, and InvalidJob for what the API would refuse; whatever the handler raises becomes the outcome.
    """
    handler = _handler(what)
    asked = Submission.of(handler.type, payload, max_attempts=max_attempts, timeout_seconds=timeout_seconds)
    if (raw := id_bytes(job_id) if job_id else new_id()) is None:
        raise InvalidJob("job_id", f"must be a uuid, not {job_id!r}")
    new = asked.job(raw, time.time(), settings.load())
    if not 1 <= attempt <= new.max_attempts:
        raise InvalidJob("attempt", f"must lie between 1 and max_attempts ({new.max_attempts}), not {attempt}")
    job = ClaimedJob(raw, 1, new.type, attempt, new.max_attempts, new.timeout_seconds, new.payload.encode())
    executor = Executor(settings.load().retry, concurrency=1, rng=random.Random(0))
    executor.resources = resources or {}
    try:
        outcome = await executor.run(job, handler)
    finally:
        executor.bodies.close()
    result = None if outcome.result is None else msgspec.json.decode(outcome.result)
    after = apply(Status.PROCESSING, attempt, outcome.transition)
    return AttemptOutcome(*after, result, outcome.error, outcome.delay_seconds)


async def run_to_end(
    what: str | Callable[..., Any],
    payload: dict[str, Any],
    *,
    max_attempts: int | None = None,
    resources: Mapping[str, Any] | None = None,
) -> list[AttemptOutcome]:
    """Run attempts of one job until it is final, without waiting in between. Returns their outcomes in order."""
    outcomes: list[AttemptOutcome] = []
    job_id, attempt = id_text(new_id()), 1
    while not outcomes or not outcomes[-1].status.is_final:
        if sum(outcome.error is None for outcome in outcomes) == MOST_SNOOZES:
            raise AssertionError(f"{what} is not final after {len(outcomes)} runs; does it snooze for ever?")
        options: dict[str, Any] = {"max_attempts": max_attempts, "job_id": job_id, "resources": resources}
        outcomes.append(await run_inline(what, payload, attempt=attempt, **options))
        attempt = outcomes[-1].attempt + 1
    return outcomes


def _handler(what: str | Callable[..., Any]) -> Handler:
    if isinstance(what, str):
        if handler := handlers.get(what):
            return handler
        error = UnknownType("type", what, handlers)
        error.add_note("A test imports the module that registers its handler.")
        raise error
    function = what.function if isinstance(what, Job) else what
    known = (handler for type in handlers if (handler := handlers.get(type)) and handler.function is function)
    return next(known, None) or Handler(function.__qualname__[-200:], function)
