"""Broken builds of the API, and of a client, that lose, double or invent what is submitted."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from chaos.controls.control import CLIENT, control
from chaos.controls.patch import replace, rewrite
from scheduler.errors import BacklogFull
from scheduler.jobs.job import IdSequence
from scheduler.storage.store import Store
from scheduler.submission.intake import Intake, Receipt
from scheduler.submission.publisher import Publisher
from scheduler.submission.submission import Submission


@control(
    "no-outbox",
    "publishes the id first and inserts the row after, with nothing to reconcile it by",
    breaks=("terminal",),
    scenario="redis-flushed",
    on="api",
)
def no_outbox() -> None:
    insert = Intake._insert

    async def publish_and_insert(self: Intake, jobs: Any, until: float) -> Any:
        await self._publisher._stream.publish([job.id for job in jobs])
        return await insert(self, jobs, until)

    rewrite("insert", ("ELSE now() + interval '1 second' END", "ELSE 'infinity'::timestamptz END"))
    replace(Intake, "_insert", publish_and_insert)
    replace(Publisher, "put", lambda *_: None)


@control(
    "submit-keyless",
    "sends an unanswered submit again without its idempotency key",
    breaks=("idempotent-submit", "no-phantom"),
    scenario="kill@api.after-commit-2",
    on=CLIENT,
)
def submit_keyless() -> None:
    """The scheduler is whole; its client is not."""


@control("keys-ignored", "forgets idempotency keys", breaks=("idempotent-submit",), scenario="calm", on="api")
def keys_ignored() -> None:
    job = Submission.job

    def forgetful(self: Submission, *arguments: Any) -> Any:
        return msgspec.structs.replace(job(self, *arguments), idempotency_key=None, fingerprint=None)

    replace(Submission, "job", forgetful)


@control(
    "overload-dropped",
    "says 202 to what the backlog cannot hold",
    breaks=("at-least-once", "terminal"),
    scenario="overload",
    on="api",
)
def overload_dropped() -> None:
    submit = Intake.submit

    async def polite(self: Intake, jobs: Any) -> Any:
        try:
            return await submit(self, jobs)
        except BacklogFull:
            return [Receipt(job.id, "PENDING", is_repeat=False) for job in jobs]

    replace(Intake, "submit", polite)


@control("phantom-jobs", "invents a job with each batch", breaks=("no-phantom",), scenario="calm", on="api")
def phantom_jobs() -> None:
    insert, ids = Store.insert, IdSequence()

    async def insert_one_more(self: Store, jobs: Any) -> int:
        (stranger,) = ids.take(1, time.time_ns(), os.urandom(8))
        twin = msgspec.structs.replace(jobs[0], id=stranger, idempotency_key=None, fingerprint=None)
        await insert(self, [twin])
        return await insert(self, jobs)

    replace(Store, "insert", insert_one_more)
