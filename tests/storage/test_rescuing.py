"""Rescue and leases: what becomes of the jobs of the dead, and who is dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.jobs.lifecycle import Transition
from scheduler.storage.postgres import Postgres
from scheduler.storage.rows import Due, Letter, Settled
from scheduler.storage.store import QUERIES, Store
from tests.storage.factory import any_dead, claim_of, expire, live_worker, new_id, rescue, running, submitted, value

STATE = "status, attempt, fence"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    own = Store(Postgres(database_url, size=8, deadline_seconds=5, name="tests"))
    yield own
    await own.close()


# -- rescue


async def test_a_rescue_gives_back_the_jobs_of_dead_and_vanished_workers_only(store: Store) -> None:
    alive, lapsed, gone = [await live_worker(store) for _ in range(3)]
    kept, lapsed_job, gone_job = [await running(store, worker) for worker in (alive, lapsed, gone)]
    [waiting] = await submitted(store)
    await expire(store, lapsed)
    await store.postgres.fetch(f"DELETE FROM scheduler.workers WHERE id = '{gone.hex()}'::uuid")
    assert await any_dead(store)
    rescued = await rescue(store)
    assert set(rescued.due_ms) == {o.job.id for o in rescued.done} == {lapsed_job.id, gone_job.id}
    assert await value(store, STATE, kept.id) == ("PROCESSING", 1, 1)
    assert await value(store, STATE, waiting) == ("PENDING", 0, 0)
    assert {worker.id for worker in await store.workers()} == {id_text(alive)}
    assert not await any_dead(store)
    assert (await rescue(store)).done == []


async def test_a_crash_was_an_attempt_and_the_job_is_due_at_once(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    await expire(store, worker)
    [rescued] = (await rescue(store)).done
    columns = f"{STATE}, run_at > started_at, run_at <= now(), reconcile_at::text"
    assert await value(store, columns, job.id) == ("PENDING", 1, 1, True, True, "-infinity")
    columns = "attempt, worker_id, error"
    error = "the worker died: its lease ran out during attempt 1"
    assert await value(store, columns, job.id, "attempts", "job_id") == (1, worker, rescued.error) == (1, worker, error)


async def test_a_crash_in_the_last_attempt_makes_a_dead_letter(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker, max_attempts=1, type="POISON")
    await expire(store, worker)
    [rescued] = (await rescue(store)).done
    assert (rescued.transition, rescued.job.type) == (Transition.FAIL, "POISON")
    assert await value(store, f"{STATE}, finished_at IS NOT NULL", job.id) == ("FAILED", 1, 1, True)
    assert await store.dead_letters(99) == [Letter(job.id, "POISON", rescued.error or "")]


async def test_rescuers_at_work_together_give_each_job_back_once(store: Store) -> None:
    workers = [await live_worker(store) for _ in range(4)]
    jobs = {(await running(store, worker)).id for worker in workers for _ in range(5)}
    for worker in workers:
        await expire(store, worker)
    rescued = await asyncio.gather(*(rescue(store) for _ in range(6)))
    assert sorted(o.job.id for some in rescued for o in some.done) == sorted(jobs)


# -- between a rescuer's look and its settling, anything may happen


async def orphaned(store: Store) -> tuple[bytes, ClaimedJob, list[Outcome]]:
    """A worker whose lease ran out, what it holds, and what a rescuer that has looked is about to do."""
    worker = await live_worker(store)
    job = await running(store, worker)
    await expire(store, worker)
    return worker, job, [Outcome.crash(seen) for seen in await store.orphans(9)]


async def renew(store: Store, worker: bytes) -> None:
    await store.heartbeat(worker, name="w", lease_seconds=60, types=[], counters="{}")


async def test_a_worker_that_renews_before_the_rescue_settles_keeps_its_job(store: Store) -> None:
    worker, job, seen = await orphaned(store)
    await renew(store, worker)
    assert await store.rescue(seen) == Settled(lost=seen)
    assert await store.settle([outcome := Outcome.complete(job, "1")]) == Settled(done=[outcome])


async def test_without_the_look_at_the_lease_a_rescue_would_take_a_living_workers_job(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test before."""
    worker, job, seen = await orphaned(store)
    await renew(store, worker)
    assert "w.expires_at > now()" in QUERIES["settle"]
    monkeypatch.setitem(QUERIES, "settle", QUERIES["settle"].replace("w.expires_at > now()", "false"))
    assert [o.job.id for o in (await store.rescue(seen)).done] == [job.id]


async def test_what_its_worker_settled_or_took_up_again_meanwhile_is_not_rescued(store: Store) -> None:
    for settled in (True, False):
        worker, job, seen = await orphaned(store)
        if settled:
            await store.complete([Outcome.complete(job, None)])
        else:
            await store.claim(worker, [job.id])  # repeated, as its reply was lost: this needs no lease
        before = await value(store, "jobs.*::text", job.id)
        assert await store.rescue(seen) == Settled(lost=seen)
        assert await value(store, "jobs.*::text", job.id) == before


async def test_a_rescue_cut_short_after_any_step_is_due_at_once_for_whoever_looks_next(store: Store) -> None:
    _, job, seen = await orphaned(store)
    assert await any_dead(store), "after the look"
    await store.forget_dead()
    assert await any_dead(store), "a lease is not forgotten while it holds something"
    await store.rescue(seen)
    assert await any_dead(store), "after the settle"
    assert await store.overlooked(3_600.0, 9) == [Due(job.id, None)], "the reconciler publishes it, if nobody does"
    assert await store.orphans(9) == []
    await store.forget_dead()
    assert not await any_dead(store)


async def test_a_claim_that_commits_after_its_worker_was_forgotten_is_found_by_the_next_look(store: Store) -> None:
    worker = await live_worker(store)
    [job_id] = await submitted(store)
    async with store.postgres.use() as claiming, claiming.transaction():
        await claiming.execute(QUERIES["claim"], claim_of(worker, job_id), binary=True)
        await expire(store, worker)
        assert (await rescue(store)).done == []
        assert not await any_dead(store)
    assert [job.id for job in await store.orphans(9)] == [job_id]
    assert list((await rescue(store)).due_ms) == [job_id]


async def test_a_look_is_bounded_and_what_it_left_is_found_by_the_next(store: Store) -> None:
    worker = await live_worker(store)
    for _ in range(3):
        await running(store, worker)
    await expire(store, worker)
    for left in (3, 1):
        seen = await store.orphans(2)
        assert len(seen) == min(2, left)
        await store.rescue([Outcome.crash(job) for job in seen])
        await store.forget_dead()
        assert await any_dead(store) is (left == 3)


# -- leases


async def test_a_heartbeat_says_whether_the_lease_was_unbroken(store: Store) -> None:
    worker = new_id()

    async def beat() -> bool:
        beaten = await store.heartbeat(worker, name="w", lease_seconds=60, types=["A"], counters='{"claimed": 3}')
        return beaten.unbroken

    assert [await beat(), await beat()] == [False, True]
    await expire(store, worker)
    assert [await beat(), await beat()] == [False, True]
    [shown] = await store.workers()
    assert (shown.id, shown.name, shown.types, shown.counters) == (id_text(worker), "w", ["A"], {"claimed": 3})


async def test_a_heartbeat_hands_over_each_cancellation_once(store: Store) -> None:
    worker = await live_worker(store)
    cancelled, kept = await running(store, worker), await running(store, worker)
    assert await store.cancel(cancelled.id)
    assert not await store.cancel(cancelled.id)
    beats = [
        (await store.heartbeat(worker, name="w", lease_seconds=60, types=[], counters="{}")).cancelled for _ in range(2)
    ]
    assert beats == [[cancelled.id], []]
    assert await store.not_held(worker, [cancelled.id, kept.id, gone := new_id()]) == [cancelled.id, gone]
