"""The exception tree: what can go wrong, carried as data.

    SchedulerError
    ├── ConfigurationError    a setting is wrong
    ├── SchemaUnusable        the database cannot be brought up to date, or is ahead
    ├── InvalidJob            one field of a submission is wrong (422)
    │   ├── PayloadTooLarge   (413)
    │   └── UnknownType       no handler of that name is known (422)
    ├── KeyReused             idempotency key used before with another body (409)
    ├── JobNotFound           (404)
    ├── NotCancellable        the job is final already (409)
    ├── BacklogFull           admission control refuses (429)
    ├── StoreUnavailable      PostgreSQL or Redis did not answer in time (503)
    │   └── Locked            a transaction that is still open has what is needed (503)
    ├── ValueRefused          PostgreSQL cannot store a value
    ├── Denied                not let in: host, origin, key, role, content type (400, 401, 403, 415, 421, 429)
    ├── RequestRefused        what the client received instead of success
    └── Signal                what a handler raises to steer its job
        ├── Discard           straight to the dead letters
        └── Snooze            run again later, no attempt spent

Each message names the subject, the value and the remedy. Foreign exceptions are translated at the
adapters in `storage/`, the cause kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from http import HTTPStatus
from typing import TypeGuard

SAMPLES = frozenset({"BLOCK", "CRASH", "FAIL", "FLAKY", "SLEEP"})  # job types that need SCHEDULER_SAMPLES=1


class SchedulerError(Exception):
    """Base of everything this package raises on purpose; HTTP answers it with `status` and `title`."""

    status = 500
    title = "Internal error"
    retry_after_seconds: float | None = None

    def __init_subclass__(cls, status: int | None = None, title: str = "") -> None:
        cls.status, cls.title = status or cls.status, title or cls.title


class ConfigurationError(SchedulerError, title="Configuration error"):
    """A setting that cannot be used."""


class SchemaUnusable(SchedulerError, title="Schema unusable"):
    """The database's schema is not, and cannot be made, what this release needs."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the schema in PostgreSQL cannot be used: {reason}")


class InvalidJob(SchedulerError, status=422, title="Invalid job"):
    """A submission that can never be accepted as it stands; `field` is a JSON path such as `jobs[3].type`."""

    def __init__(self, field: str, reason: str, *, status: int = 422) -> None:
        super().__init__(field, reason)
        self.field, self.reason, self.status = field, reason, status

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class UnknownType(InvalidJob, title="Unknown job type"):
    """Nobody here can run the type, and no worker ever could."""

    def __init__(self, field: str, type: str, known: Iterable[str]) -> None:
        hint = nearest(type, known)
        remedy = f"did you mean {hint!r}?" if hint else "start a worker whose SCHEDULER_JOBS module registers it"
        if type in SAMPLES:
            remedy = "it exists for tests only; start API and workers with SCHEDULER_SAMPLES=1"
        super().__init__(field, f"no handler is known for type {type[:100]!r}; {remedy}")


class PayloadTooLarge(InvalidJob, title="Too large"):
    """`size` bytes where `limit` are allowed."""

    def __init__(self, field: str, size: int, limit: int, remedy: str) -> None:
        super().__init__(field, f"has {size} bytes and {limit} are allowed; {remedy}", status=413)


class KeyReused(SchedulerError, status=409, title="Idempotency key reused"):
    """`key` belongs to the job `job_id`, which was submitted with another body."""

    def __init__(self, key: str, job_id: str) -> None:
        whose = f"idempotency_key {key[:100]!r} belongs to job {job_id} with another body"
        super().__init__(f"{whose}; send the same body, or a new key")
        self.key, self.job_id = key, job_id


class JobNotFound(SchedulerError, status=404, title="Job not found"):
    """No row has the id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id[:100]!r} does not exist, or its retention has passed")


class NotCancellable(SchedulerError, status=409, title="Job is final"):
    """There is nothing left to cancel."""

    def __init__(self, job_id: str, status: str) -> None:
        super().__init__(f"job {job_id} is {status} already; only PENDING and PROCESSING jobs can be cancelled")


class BacklogFull(SchedulerError, status=429, title="Backlog full"):
    """Admission control refuses; `Retry-After` says when to ask again."""

    retry_after_seconds = 1.0

    def __init__(self, backlog: int, limit: int) -> None:
        remedy = "retry later, or raise SCHEDULER_MAX_BACKLOG"
        super().__init__(f"{backlog} jobs are waiting and the limit is {limit}; {remedy}")


class StoreUnavailable(SchedulerError, status=503, title="Store unavailable"):
    """A store did not answer in time, or with an error; what was asked of it may have happened."""

    retry_after_seconds = 1.0

    def __init__(self, store: str, reason: str) -> None:
        remedy = "retry in a moment, submissions with the same idempotency key"
        super().__init__(f"{store} is out of reach ({reason}); {remedy}")
        self.store, self.reason = store, reason


class Locked(StoreUnavailable, title="Locked"):
    """A transaction that is still open holds what this needs; the store is well."""

    def __str__(self) -> str:
        return f"{self.reason}; retry when that transaction has ended"


class ValueRefused(SchedulerError, status=422, title="Value refused"):
    """PostgreSQL cannot store a value."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"PostgreSQL cannot store a value: {reason}")


class Denied(SchedulerError):
    """A request that is not let in, whatever it asks."""

    def __init__(self, status: int, reason: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.status, self.title, self.retry_after_seconds = status, HTTPStatus(status).phrase, retry_after_seconds


class RequestRefused(SchedulerError):
    """The API answered a client's request with an error; `status` and `problem` say which."""

    def __init__(self, status: int, problem: dict[str, object]) -> None:
        super().__init__(f"HTTP {status}: {problem.get('detail') or problem.get('title')}")
        self.status, self.problem = status, problem


class Signal(SchedulerError):
    """Raised by a handler to say what is to become of its job."""


class Discard(Signal):
    """The job can never succeed: dead-letter it now, whatever attempts are left."""


class Snooze(Signal):
    """Run the job again in `seconds`, without spending an attempt."""

    def __init__(self, seconds: float) -> None:
        if not is_snooze(seconds):
            raise ValueError(f"Snooze seconds must lie between 0 and one year, not {seconds}")
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds


def is_snooze(seconds: object) -> TypeGuard[float]:
    """Whether a job can be put off by this: a number of seconds, at most a year."""
    return isinstance(seconds, int | float) and 0 <= seconds <= 366 * 86_400


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, or None when none is close."""
    folded = {candidate.casefold(): candidate for candidate in known}
    found = get_close_matches(name[:100].casefold(), folded, n=1, cutoff=0.6)
    return folded[found[0]] if found else None
