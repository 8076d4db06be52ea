"""How each control breaks the scheduler: one function a control, which patches the running process.

A part that is not there any more must not pass for a broken one: every patch fails loudly when it finds nothing to
break.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ResponseError

from chaos.errors import UsageError
from scheduler.errors import BacklogFull
from scheduler.jobs.job import IdSequence, Outcome
from scheduler.jobs.lifecycle import RULES, Transition
from scheduler.jobs.retry import RetryPolicy
from scheduler.keepers.reconciler import Reconciler
from scheduler.keepers.rescuer import Rescuer
from scheduler.service import Service
from scheduler.storage import postgres
from scheduler.storage import stream as streaming
from scheduler.storage.store import QUERIES, Store
from scheduler.storage.stream import Stream
from scheduler.worker import suspects
from scheduler.worker.heartbeat import Heartbeat
from scheduler.worker.settler import Settler

AHEAD_SECONDS = 60.0


def nothing() -> None:
    """The scheduler is whole; its client is not."""


# ------------------------------------------------------------------------------------------------- claiming, settling


def settle_before_body() -> None:
    claim = Store.claim

    async def claim_and_complete(self: Store, worker: bytes, job_ids: Any) -> Any:
        jobs = await claim(self, worker, job_ids)
        await self.complete([Outcome.complete(job, None) for job in jobs])
        return jobs

    _replace(Store, "claim", claim_and_complete)


def no_fence() -> None:
    _rewrite("complete", (" AND fence = %(fence)s AND status = 'PROCESSING'", ""))
    _rewrite("settle", (" AND j.fence = o.fence AND j.status = 'PROCESSING'", ""))


def no_status_guard() -> None:
    """As the schema forbids a running job with an end, this claim takes the end away."""
    _rewrite(
        "claim",
        (
            "attempt = attempt + CASE status WHEN 'PENDING' THEN 1 ELSE 0 END",
            "attempt = least(attempt + 1, max_attempts)",
        ),
        ("SET attempt", "SET finished_at = NULL, attempt"),
        ("status = 'PROCESSING' AND worker_id = %(worker)s OR status = 'PENDING' AND run_at", "run_at"),
    )


def commit_async() -> None:
    _replace(postgres, "_OPTIONS", f"{vars(postgres)['_OPTIONS']} -c synchronous_commit=off")


def release_burns() -> None:
    RULES[Transition.RELEASE] = dataclasses.replace(RULES[Transition.RELEASE], attempt=0)


# ----------------------------------------------------------------------------------------------- retries, dead letters


def retry_early() -> None:
    delay = RetryPolicy.delay
    _replace(RetryPolicy, "delay", lambda self, attempt, chance=0.0: delay(self, attempt, chance) / 2)


def retry_due_lost() -> None:
    _rewrite(
        "settle",
        ("THEN now() + o.delay * interval '1 second' ELSE j.run_at END", "THEN j.run_at ELSE j.run_at END"),
        ("THEN now() + (o.delay + 1) * interval '1 second'", "THEN now()"),
        (
            "SELECT id, (extract(epoch FROM run_at) * 1000)::float8 FROM settled",
            "SELECT id, ((extract(epoch FROM now()) + delay) * 1000)::float8 FROM settled JOIN outcome USING (id)",
        ),
    )


def attempts_uncounted() -> None:
    RULES[Transition.RETRY] = dataclasses.replace(RULES[Transition.RETRY], attempt=-1)


def crashes_uncounted() -> None:
    _rewrite(
        "rescue",
        ("CASE WHEN attempt < max_attempts", "CASE WHEN true"),
        ("SET status", "SET attempt = attempt - 1, status"),
    )


def dlq_missing() -> None:
    _replace(Stream, "dead_letter", _nothing)


def dlq_first() -> None:
    settle = Settler._settle

    async def bury_and_settle(self: Settler, outcomes: list[Outcome]) -> Any:
        await self._stream_dead([each for each in outcomes if each.transition is Transition.FAIL])
        return await settle(self, outcomes)

    _replace(Settler, "_settle", bury_and_settle)


def suspects_together() -> None:
    _replace(suspects, "SUSPECT_AFTER_CRASHES", 1_000_000)


# ------------------------------------------------------------------------------------------------------ living, dying


def heartbeat_off() -> None:
    """Renews, but only every other lease."""
    renew, last = Heartbeat._renew, {"at": 0.0}

    async def sometimes(self: Heartbeat, store: Store) -> None:
        if time.monotonic() - last["at"] > 2 * self._lease:
            last["at"] = time.monotonic()
            await renew(self, store)

    _replace(Heartbeat, "_renew", sometimes)


def heartbeat_in_loop() -> None:
    beating: list[asyncio.Task[None]] = []

    def start(self: Heartbeat) -> None:
        beating.append(asyncio.get_running_loop().create_task(self._beat()))

    async def stop(self: Heartbeat) -> None:
        self._stopping.set()
        await asyncio.wait(beating)

    _replace(Heartbeat, "start", start)
    _replace(Heartbeat, "stop", stop)


def lease_own_clock() -> None:
    own = f"clock_timestamp() + interval '{AHEAD_SECONDS:g} seconds'"  # what this worker's clock says
    _rewrite("heartbeat", ("clock_timestamp() + %(lease)s", f"{own} + %(lease)s"))


def rescuer_off() -> None:
    _replace(Rescuer, "tick", _idle)


def reconciler_off() -> None:
    _replace(Reconciler, "tick", _idle)


def gives_up() -> None:
    _replace(Service, "_back_off", lambda _: os._exit(1))


def no_trim() -> None:
    async def nothing(self: Stream, cursor: bytes, spare: int) -> tuple[int, bytes]:
        return 0, cursor

    _replace(Stream, "trim", nothing)


# --------------------------------------------------------------------------------------------------------- submitting


def no_outbox() -> None:
    from scheduler.submission.intake import Intake
    from scheduler.submission.publisher import Publisher

    insert = Intake._insert

    async def publish_and_insert(self: Intake, jobs: Any, until: float) -> Any:
        await self._publisher._stream.publish([job.id for job in jobs])
        return await insert(self, jobs, until)

    _rewrite("insert", ("ELSE now() + interval '1 second' END", "ELSE 'infinity'::timestamptz END"))
    _replace(Intake, "_insert", publish_and_insert)
    _replace(Publisher, "put", lambda *_: None)


def phantom_jobs() -> None:
    insert, ids = Store.insert, IdSequence()

    async def insert_one_more(self: Store, jobs: Any) -> int:
        (stranger,) = ids.take(1, time.time_ns(), os.urandom(8))
        twin = dataclasses.replace(jobs[0], id=stranger, idempotency_key=None, fingerprint=None)
        await insert(self, [twin])
        return await insert(self, jobs)

    _replace(Store, "insert", insert_one_more)


def keys_ignored() -> None:
    from scheduler.api import hot

    new_job = vars(hot)["new_job"]

    def forgetful(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(new_job(*arguments, **options), idempotency_key=None, fingerprint=None)

    _replace(hot, "new_job", forgetful)


def overload_dropped() -> None:
    from scheduler.submission.intake import Intake, Receipt

    submit = Intake.submit

    async def polite(self: Intake, jobs: Any) -> Any:
        try:
            return await submit(self, jobs)
        except BacklogFull:
            return [Receipt(job.id, "PENDING", is_repeat=False) for job in jobs]

    _replace(Intake, "submit", polite)


# ----------------------------------------------------------------------------------------------------------- harmless


def early_ack() -> None:
    read = Stream.read

    async def read_and_ack(self: Stream, consumer: str, limit: int) -> Any:
        deliveries = await read(self, consumer, limit)
        await self.ack([each.entry for each in deliveries])
        return deliveries

    _replace(Stream, "read", read_and_ack)


def noack() -> None:
    async def read(self: Stream, consumer: str, limit: int) -> Any:
        return await self._read_group(consumer, limit, ">", "BLOCK", streaming.BLOCK_MS, "NOACK")

    _replace(Stream, "read", read)


def group_at_end() -> None:
    async def ensure_group(self: Stream) -> None:
        async with streaming.translated():
            try:
                await self._redis.xgroup_create(self.stream, self.group, id="$", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    _replace(Stream, "ensure_group", ensure_group)


def cursor_dropped() -> None:
    adopt, seen = Stream.adopt, set[str]()

    async def adopt_one(self: Stream, dead: str, heir: str, limit: int = 100) -> int:
        if dead in seen:
            return 0
        seen.add(dead)
        return await adopt(self, dead, heir, 1)

    _replace(Stream, "adopt", adopt_one)


def redis_resends() -> None:
    _replace(streaming, "Retry", lambda *_: Retry(ConstantBackoff(0.05), 3))


def clock_behind() -> None:
    wall, wall_ns = time.time, time.time_ns
    _replace(time, "time", lambda: wall() - 3_600)
    _replace(time, "time_ns", lambda: wall_ns() - 3_600_000_000_000)


def _rewrite(query: str, *changes: tuple[str, str]) -> None:
    """Put other words in a statement. Raises UsageError when it does not hold the old ones."""
    for old, new in changes:
        if old not in QUERIES[query]:
            raise UsageError(f"the query {query!r} holds no {old!r}; bring the control up to date")
        QUERIES[query] = QUERIES[query].replace(old, new)


def _replace(owner: Any, name: str, broken: Any) -> None:
    """Put the broken part in place. Raises UsageError when there is none to replace."""
    if not hasattr(owner, name):
        raise UsageError(f"{owner.__name__} has no {name}; bring the control up to date")
    setattr(owner, name, broken)


async def _nothing(*_: Any) -> None:
    return None


async def _idle(*_: Any) -> float:
    return 1.0
