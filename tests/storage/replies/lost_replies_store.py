"""What a lost reply of PostgreSQL leads to, command by command: doing what the product does next loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg

from scheduler.client import submit
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.storage import schema
from scheduler.storage.rows import Accepted, Beat, Due, Misfit, Settled
from scheduler.storage.schema import migrate
from scheduler.storage.store import Store
from tests.storage.factory import alter, any_dead, dead, expire, live_worker, new_id, new_job, running, submitted, value
from tests.storage.replies.lost_replies import CLOSING, Case, Table, World

ON_POSTGRES = Table()
STATE = "status, attempt, fence"
LAST_ID = b"\xff" * 16


async def held(w: World, **fields: Any) -> ClaimedJob:
    """A job that a live worker has in hand."""
    return await running(w.record, await live_worker(w.record), **fields)


async def count(w: World, table: str = "jobs") -> int:
    return int((await w.record.postgres.fetch(f"SELECT count(*) FROM scheduler.{table}"))[0][0])


async def gone(w: World, job_id: bytes) -> bool:
    return await w.record.finished([job_id]) == [job_id] and job_id not in [
        row[0] for row in await w.record.postgres.fetch("SELECT id FROM scheduler.jobs")
    ]


# -- submitting


@ON_POSTGRES.of(Store.insert)
async def a_repeated_insert_finds_its_own_rows_by_their_ids(w: World) -> None:
    jobs = [new_job(idempotency_key="k", fingerprint=b"f"), new_job()]
    await w.lose(w.store.insert(jobs))
    assert await count(w) == 2
    assert await w.store.insert(jobs) == 0
    found = await w.store.accepted([job.id for job in jobs], ["k"])
    assert {row.id for row in found} == {job.id for job in jobs}
    assert await count(w) == 2
    assert sorted(await w.reconciled()) == sorted(job.id for job in jobs)


@ON_POSTGRES.of(Store.insert_whole, replies=3)
async def a_batch_is_there_whole_once_its_commit_has_run(w: World) -> None:
    jobs = [new_job(idempotency_key=key, fingerprint=b"f") for key in ("k", "l")]
    await w.lose(w.store.insert_whole(jobs))
    committed = w.reply == 3
    assert await count(w) == (2 if committed else 0)
    again = await w.store.insert_whole(jobs)
    assert again == (0 if committed else 2)
    found = await w.store.accepted([], ["k", "l"])
    assert {row.id for row in found} == {job.id for job in jobs}, "what exists is this very batch"
    assert await count(w) == 2
    assert sorted(await w.reconciled()) == sorted(job.id for job in jobs)


# BEGIN, INSERT, ROLLBACK, DEALLOCATE ALL (psycopg's own).
@ON_POSTGRES.of(Store.insert_whole, replies=4)
async def a_batch_with_a_key_that_is_taken_leaves_no_row(w: World) -> None:
    taken = new_job(idempotency_key="k", fingerprint=b"f")
    await w.record.insert([taken])
    batch = [new_job(idempotency_key="k", fingerprint=b"g"), new_job()]
    await w.lose(w.store.insert_whole(batch))
    assert await count(w) == 1
    assert await w.store.insert_whole(batch) == 1
    assert await w.store.accepted([], ["k"]) == [Accepted(taken.id, "k", b"f", "PENDING")]
    assert await count(w) == 1


# -- working


@ON_POSTGRES.of(Store.claim)
async def a_repeated_claim_takes_the_job_up_with_a_new_fence_and_the_same_attempt(w: World) -> None:
    worker, rival = await live_worker(w.record), await live_worker(w.record)
    [job_id] = await submitted(w.record)
    await w.lose(w.store.claim(worker, [job_id]))
    assert await value(w.record, f"{STATE}, worker_id", job_id) == ("PROCESSING", 1, 1, worker)
    assert await w.record.claim(rival, [job_id]) == []
    [job] = await w.store.claim(worker, [job_id])
    assert (job.attempt, job.fence) == (1, 2)
    assert (await w.store.complete([Outcome.complete(job, None)])).lost == []
    assert await value(w.record, STATE, job_id) == ("COMPLETED", 1, 2)
    assert await count(w, "attempts") == 0


@ON_POSTGRES.of(Store.misfits)
async def a_refusal_is_noted_once_and_changes_nothing_of_the_job(w: World) -> None:
    [job_id] = await submitted(w.record, type="T")
    await w.lose(w.store.misfits([job_id], ["NOOP"], 60.0))
    refused = "SELECT name, seen_at, refused_at FROM scheduler.types"
    before = await w.record.postgres.fetch(refused)
    assert await w.store.misfits([job_id], ["NOOP"], 60.0) == [Misfit(job_id, "T", False, False)]
    assert await w.record.postgres.fetch(refused) == before
    assert await value(w.record, STATE, job_id) == ("PENDING", 0, 0)


@ON_POSTGRES.of(Store.complete)
async def a_repeated_completion_is_not_taken_for_a_lost_lease(w: World) -> None:
    outcome = Outcome.complete(await held(w), None)
    await w.lose(w.store.complete([outcome]))
    before = await value(w.record, "j::text", outcome.job.id, "jobs j")
    assert await value(w.record, STATE, outcome.job.id) == ("COMPLETED", 1, 1)
    assert await w.store.complete([outcome]) == Settled(done=[outcome])
    assert await value(w.record, "j::text", outcome.job.id, "jobs j") == before


@ON_POSTGRES.of(Store.complete, replies=2)
async def a_completion_that_came_too_late_is_told_so_at_last(w: World) -> None:
    outcome = Outcome.complete(await held(w), None)
    await w.record.cancel(outcome.job.id)
    await w.lose(w.store.complete([outcome]))
    assert await w.store.complete([outcome]) == Settled(lost=[outcome])
    assert await value(w.record, STATE, outcome.job.id) == ("CANCELLED", 1, 1)


OUTCOMES: dict[str, tuple[Callable[[ClaimedJob], Outcome], tuple[str, int], int]] = {
    "complete": (lambda job: Outcome.complete(job, "1"), ("COMPLETED", 1), 0),
    "retry": (lambda job: Outcome.retry(job, "why", 9.0), ("PENDING", 1), 1),
    "fail": (lambda job: Outcome.fail(job, "why"), ("FAILED", 1), 1),
    "snooze": (lambda job: Outcome.snooze(job, 9.0), ("PENDING", 0), 0),
    "release": (Outcome.release, ("PENDING", 0), 0),
}


async def a_repeated_settle_changes_nothing_and_is_not_lost(w: World, kind: str) -> None:
    make, (status, attempt), attempts = OUTCOMES[kind]
    outcome = make(await held(w))
    await w.lose(w.store.settle([outcome]))
    before = await w.snapshot()
    assert await value(w.record, STATE, outcome.job.id) == (status, attempt, 1)
    assert await w.store.settle([outcome]) == Settled(done=[outcome])
    assert await w.snapshot() == before
    assert (await count(w, "attempts"), await count(w, "dead_letters")) == (attempts, int(kind == "fail"))
    if status == "PENDING":
        assert await w.reconciled() == [outcome.job.id], "the ZSET was not told; the record makes up for it"
        assert await w.work_off() == [outcome.job.id]


for each in OUTCOMES:
    story = partial(a_repeated_settle_changes_nothing_and_is_not_lost, kind=each)
    story.__name__ = f"repeated {each} changes nothing and is not lost"  # type: ignore[attr-defined]
    ON_POSTGRES.append(Case(Store.settle.__qualname__, story))


@ON_POSTGRES.of(Store.settle, replies=2)
async def an_outcome_that_came_too_late_is_told_so_at_last(w: World) -> None:
    outcome = Outcome.retry(await held(w), "why", 0.0)
    await w.record.cancel(outcome.job.id)
    await w.lose(w.store.settle([outcome]))
    assert (await w.store.settle([outcome])).lost == [outcome]
    assert await value(w.record, STATE, outcome.job.id) == ("CANCELLED", 1, 1)


# -- living and dying


def beat(store: Store, worker: bytes) -> Any:
    return store.heartbeat(worker, name="w", lease_seconds=60.0, types=["NOOP"], counters="{}")


@ON_POSTGRES.of(Store.heartbeat)
async def a_lease_is_renewed_and_was_unbroken(w: World) -> None:
    worker = await live_worker(w.record, lease_seconds=30.0)
    await w.lose(beat(w.store, worker))
    expiry = "expires_at > now() + interval '50 seconds'"
    assert await value(w.record, expiry, worker, "workers")
    assert await beat(w.store, worker) == Beat(True, [])


@ON_POSTGRES.of(Store.heartbeat)
async def a_first_lease_is_taken_once(w: World) -> None:
    worker = new_id()
    await w.lose(beat(w.store, worker))
    assert [one.id for one in await w.record.workers()] == [id_text(worker)]
    assert await beat(w.store, worker) == Beat(True, [])
    assert await count(w, "workers") == 1


@ON_POSTGRES.of(Store.heartbeat)
async def a_cancellation_that_did_not_arrive_is_found_by_looking(w: World) -> None:
    """The statement forgets what it told; after a beat without an answer the worker looks what it holds."""
    worker = await live_worker(w.record)
    job = await running(w.record, worker)
    await w.record.cancel(job.id)
    await w.lose(beat(w.store, worker))
    assert await beat(w.store, worker) == Beat(True, [])
    assert await w.store.not_held(worker, [job.id]) == [job.id]


@ON_POSTGRES.of(Store.deregister)
async def a_worker_that_left_is_gone(w: World) -> None:
    worker = await live_worker(w.record)
    await w.lose(w.store.deregister(worker))
    assert await count(w, "workers") == 0
    await w.store.deregister(worker)


@ON_POSTGRES.of(Store.rescue)
async def what_was_rescued_unheard_is_published_by_the_reconciler(w: World) -> None:
    worker = await live_worker(w.record)
    again, spent = await running(w.record, worker), await running(w.record, worker, max_attempts=1)
    await expire(w.record, worker)
    outcomes = [Outcome.crash(job) for job in await w.record.orphans(9)]
    await w.lose(w.store.rescue(outcomes))
    assert await value(w.record, f"{STATE}, crashes", again.id) == ("PENDING", 1, 1, 1)
    assert [letter.id for letter in await w.record.dead_letters(99)] == [spent.id]
    assert await any_dead(w.store), "the next look comes at once"
    assert await w.store.orphans(9) == []
    assert (await w.store.rescue(outcomes)).done == []
    assert await value(w.record, f"{STATE}, crashes", again.id) == ("PENDING", 1, 1, 1)
    assert await w.store.overlooked(0.0, 9) == [Due(again.id, None)], "at once"
    assert (await count(w, "attempts"), await count(w, "dead_letters")) == (2, 1)


@ON_POSTGRES.of(Store.forget_dead)
async def the_dead_are_forgotten_and_those_who_live_or_hold_something_are_not(w: World) -> None:
    dying, holding, living = [await live_worker(w.record) for _ in range(3)]
    await running(w.record, holding)
    await expire(w.record, dying)
    await expire(w.record, holding)
    await w.lose(w.store.forget_dead())
    for _ in range(2):
        assert {row[0] for row in await w.record.postgres.fetch("SELECT id FROM scheduler.workers")} == {
            holding,
            living,
        }
        await w.store.forget_dead()


@ON_POSTGRES.of(Store.overlooked)
async def what_was_picked_unheard_is_picked_again_a_second_later(w: World) -> None:
    [job_id] = await submitted(w.record, delay_seconds=0.001)
    await alter(w.record, "jobs SET run_at = now() WHERE id", job_id)
    await w.lose(w.store.overlooked(0.0, 9))
    assert await w.store.overlooked(0.0, 9) == []
    assert await w.reconciled() == [job_id]
    assert await w.work_off() == [job_id]


@ON_POSTGRES.of(Store.prune)
async def what_is_past_its_retention_is_gone_and_nothing_else(w: World) -> None:
    job, letter = await held(w), await dead(w.record)
    await w.record.complete([Outcome.complete(job, None)])
    await w.lose(w.store.prune(bytes(16), LAST_ID, 0.0, 9))
    assert await gone(w, job.id)
    assert await w.store.prune(bytes(16), LAST_ID, 0.0, 9) == []
    assert await value(w.record, STATE, letter) == ("FAILED", 1, 1)


# -- deciding


@ON_POSTGRES.of(Store.cancel)
async def a_job_is_cancelled_and_its_worker_told_once(w: World) -> None:
    worker = await live_worker(w.record)
    job = await running(w.record, worker)
    await w.lose(w.store.cancel(job.id))
    assert await value(w.record, STATE, job.id) == ("CANCELLED", 1, 1)
    assert not await w.store.cancel(job.id)
    assert await beat(w.record, worker) == Beat(True, [job.id])


@ON_POSTGRES.of(Store.redrive)
async def a_letter_redriven_unheard_runs_again_once(w: World) -> None:
    job_id = await dead(w.record)
    await w.lose(w.store.redrive([job_id], 0.0))
    assert await value(w.record, STATE, job_id) == ("PENDING", 0, 1)
    assert await w.store.redrive([job_id], 0.0) == []
    assert await w.reconciled() == [job_id]
    assert await w.work_off() == [job_id]
    assert await count(w, "dead_letters") == 0


@ON_POSTGRES.of(Store.purge)
async def a_letter_and_its_job_are_gone(w: World) -> None:
    purged, other = await dead(w.record), await dead(w.record)
    await w.lose(w.store.purge([purged]))
    assert await w.store.purge([purged]) == []
    assert [letter.id for letter in await w.record.dead_letters(99)] == [other]
    assert await gone(w, purged)


# -- whole transactions


# `submit` runs on the caller's connection, whose deadlines are the caller's too: only a connection that ends is told.
@ON_POSTGRES.of(submit, replies=3, faults=(CLOSING,))
async def a_callers_transaction_repeated_with_its_key_has_one_job(w: World) -> None:
    async def transaction() -> str:
        async with await psycopg.AsyncConnection.connect(w.database_url, connect_timeout=2) as conn:
            return await submit(conn, "NOOP", {"order": 1}, idempotency_key="order-1")

    await w.lose(transaction(), raises=psycopg.OperationalError)
    assert await count(w) == (1 if w.reply == 3 else 0)
    job_id = await transaction()
    assert await transaction() == job_id
    assert [raw.hex() for raw in await w.reconciled()] == [job_id.replace("-", "")]
    assert await w.work_off() == [bytes.fromhex(job_id.replace("-", ""))]


STEPS = [name for name, _ in schema._steps()]


# A migration may take a minute, and so may a silent link. Its first replies: what is there already, the first steps.
@ON_POSTGRES.of(migrate, replies=9, faults=(CLOSING,))
async def each_step_of_a_migration_is_there_whole_and_the_next_run_goes_on_behind_it(w: World) -> None:
    record = w.record.postgres
    await record.fetch("DROP SCHEMA scheduler CASCADE")
    try:
        await w.lose(migrate(w.store.postgres))
        [(is_there,)] = await record.fetch("SELECT to_regclass('scheduler.migrations') IS NOT NULL")
        done = [name for (name,) in await record.fetch("SELECT name FROM scheduler.migrations")] if is_there else []
        assert sorted(done) == STEPS[: len(done)]
        bounds = await record.fetch("SELECT convalidated FROM pg_constraint WHERE conname = 'jobs_bounds'")
        assert bounds == [[], [], [(False,)], [(True,)]][min(len(done), 3)]
        assert await migrate(w.store.postgres) == STEPS[len(done) :]
    finally:
        await migrate(w.record.postgres)
    assert await submitted(w.store)
