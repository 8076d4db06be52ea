"""A job as the outside sees it: what the API answers, encoded as it stands; the OpenAPI document is made from it.

Ids are uuid text here. Which attempts a job has is decided in `shown`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Raw, Struct
from msgspec.structs import asdict

from scheduler.jobs.lifecycle import Status


class Attempt(Struct, frozen=True, gc=False):
    """One try. `status` is FAILED, PROCESSING, COMPLETED or CANCELLED."""

    attempt: int
    status: str
    worker_id: str | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    traceback: str | None = None


class JobSummary(Struct, frozen=True, gc=False):
    """A job in a list."""

    id: str
    type: str
    status: str
    attempt: Annotated[int, Meta(description="Number of the current or last try; 0 before the first")]
    max_attempts: int
    created_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None


class Job(JobSummary, frozen=True, gc=False):
    """One job with its attempts, in order."""

    payload: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
    result: Raw
    timeout_seconds: float | None
    idempotency_key: str | None
    attempts: list[Attempt]


class Page(Struct, frozen=True):
    """Jobs, newest first; `next_cursor` leads to the older ones, None: there are none.

    A page may hold fewer jobs than its limit, or none, and others follow: a filter that few jobs meet takes longer.
    """

    jobs: list[JobSummary]
    next_cursor: str | None


class JobRow(JobSummary, frozen=True, gc=False):
    """A job's row; `payload` and `result` are JSON."""

    payload: bytes
    result: bytes | None
    timeout_seconds: float | None
    idempotency_key: str | None
    worker_id: str | None


_OWN = (Status.PROCESSING, Status.COMPLETED, Status.CANCELLED)


def shown(row: JobRow, failed: list[Attempt]) -> Job:
    """The job of a row and of its recorded attempts, those that did not complete.

    Its row tells of one attempt more, that which runs, completed or was cancelled, unless that one is recorded too.
    """
    attempts = list(failed)
    is_recorded = bool(failed) and failed[-1].started_at == row.started_at
    if row.status in _OWN and row.started_at and not is_recorded:
        attempts.append(Attempt(row.attempt, row.status, row.worker_id, row.started_at, row.finished_at, None))
    fields = asdict(row) | {"payload": Raw(row.payload), "result": Raw(row.result or b"null"), "attempts": attempts}
    del fields["worker_id"]
    return Job(**fields)
