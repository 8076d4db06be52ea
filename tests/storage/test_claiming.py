"""Claim, settle, rescue: who may write what about a job, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from scheduler.errors import ValueRefused
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store
from tests.storage.factory import alter, dead, expire, live_worker, new_id, new_job, running, submitted, value

STATE = "status, attempt, fence"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    own = Store(Postgres(database_url, size=8, deadline_seconds=5, name="tests"))
    yield own
    await own.close()


# -- claim


async def test_each_job_has_exactly_one_winner_among_concurrent_claimers(store: Store) -> None:
    ids = await submitted(store, 200)
    workers = [await live_worker(store) for _ in range(8)]
    halves = [ids[:120], ids[80:]]
    won = await asyncio.gather(*(store.claim(worker, halves[n % 2]) for n, worker in enumerate(workers)))
    assert Counter(job.id for jobs in won for job in jobs) == Counter(ids)
    for worker, jobs in zip(workers, won, strict=True):
        assert all([await value(store, "worker_id", job.id) == worker for job in jobs[:3]])


async def test_a_claim_counts_the_attempt_raises_the_fence_and_hands_over_the_job(store: Store) -> None:
    [job_id] = await submitted(store, type="T", payload='{"a": 1}', max_attempts=3, timeout_seconds=7.0)
    worker = await live_worker(store)
    [job] = await store.claim(worker, [job_id])
    waited, job.waited_seconds = job.waited_seconds, 0.0
    assert job == ClaimedJob(job_id, 1, "T", 1, 3, 7.0, b'{"a": 1}', 0.0)
    assert 0 <= waited < 5
    assert await value(store, f"{STATE}, worker_id, started_at IS NOT NULL", job_id) == (
        "PROCESSING",
        1,
        1,
        worker,
        True,
    )


async def test_a_job_is_not_claimed_before_its_time_by_the_databases_clock(store: Store) -> None:
    [later], [due] = await submitted(store, delay_seconds=30.0), await submitted(store)
    worker = await live_worker(store)
    assert [job.id for job in await store.claim(worker, [later, due])] == [due]
    await alter(store, "jobs SET run_at = now() WHERE id", later)
    assert [job.id for job in await store.claim(worker, [later])] == [later]


async def test_a_worker_without_a_lease_claims_nothing(store: Store) -> None:
    ids = await submitted(store, 2)
    expired = await live_worker(store)
    await expire(store, expired)
    assert await store.claim(expired, ids) == []
    assert await store.claim(new_id(), ids) == []
    assert await value(store, STATE, ids[0]) == ("PENDING", 0, 0)


async def test_repeating_a_claim_whose_reply_was_lost_keeps_the_attempt_and_outdates_the_lost_fence(
    store: Store,
) -> None:
    worker, rival = await live_worker(store), await live_worker(store)
    lost_reply = await running(store, worker)
    assert await store.claim(rival, [lost_reply.id]) == []
    [again] = await store.claim(worker, [lost_reply.id])
    assert (again.attempt, again.fence) == (1, 2)
    assert await store.complete([Outcome.complete(lost_reply, None)]) == [Outcome.complete(lost_reply, None)]
    assert await store.complete([Outcome.complete(again, None)]) == []


async def test_a_claim_is_repeated_though_the_lease_lapsed_meanwhile_but_nothing_new_is_claimed(store: Store) -> None:
    worker = await live_worker(store)
    [held, fresh] = await submitted(store, 2)
    await store.claim(worker, [held])  # and its reply is lost
    await expire(store, worker)  # PostgreSQL was away; the reader is back before the heartbeat
    again = await store.claim(worker, [held, fresh])
    assert [(job.id, job.fence, job.attempt) for job in again] == [(held, 2, 1)]


async def test_a_worker_that_leaves_gives_back_what_it_does_not_know_it_holds_unburned(store: Store) -> None:
    leaving, other = await live_worker(store), await live_worker(store)
    [job_id] = await submitted(store)
    await store.claim(leaving, [job_id])  # and its reply is lost
    kept = await running(store, other)
    await store.deregister(leaving)
    assert await value(store, "status, attempt, crashes", job_id) == ("PENDING", 0, 0)
    assert await value(store, "status", kept.id) == "PROCESSING"
    assert (await store.overlooked(60, 10))[0] == [job_id]
    [again] = await store.claim(other, [job_id])
    assert (again.fence, again.attempt) == (2, 1)


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_a_final_job_is_never_claimed_again_not_even_by_the_worker_that_had_it(store: Store, status: str) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    await alter(store, f"jobs SET finished_at = now(), status = '{status}' WHERE id", job.id)
    assert await store.claim(worker, [job.id]) == []
    assert await value(store, STATE, job.id) == (status, 1, 1)


# -- settle

OUTCOMES: dict[str, tuple[Callable[[ClaimedJob], Outcome], str]] = {
    "complete": (lambda job: Outcome.complete(job, '{"n": 1}'), "COMPLETED"),
    "retry": (lambda job: Outcome.retry(job, "why", 9.0), "PENDING"),
    "fail": (lambda job: Outcome.fail(job, "why"), "FAILED"),
    "snooze": (lambda job: Outcome.snooze(job, 9.0), "PENDING"),
    "release": (Outcome.release, "PENDING"),
}
each_outcome = pytest.mark.parametrize("kind", OUTCOMES)


async def settle(store: Store, outcome: Outcome) -> list[Outcome]:
    return (await store.settle([outcome])).lost


@each_outcome
async def test_an_outcome_is_lost_and_changes_nothing_once_another_claim_has_happened(store: Store, kind: str) -> None:
    stale_worker, other = await live_worker(store), await live_worker(store)
    stale = await running(store, stale_worker)
    await expire(store, stale_worker)
    await store.rescue()
    [current] = await store.claim(other, [stale.id])
    before = await value(store, "jobs.*::text", stale.id)
    outcome = OUTCOMES[kind][0](stale)
    assert await settle(store, outcome) == [outcome]
    assert await store.complete([Outcome.complete(stale, None)]) == [Outcome.complete(stale, None)]
    assert await value(store, "jobs.*::text", stale.id) == before
    assert await store.dead_count() == 0
    assert await store.complete([Outcome.complete(current, None)]) == []


@each_outcome
async def test_settling_again_after_a_lost_reply_changes_nothing_and_is_not_lost(store: Store, kind: str) -> None:
    make, status = OUTCOMES[kind]
    outcome = make(await running(store, await live_worker(store)))
    assert await settle(store, outcome) == []
    before = await value(store, "jobs.*::text", outcome.job.id)
    assert await settle(store, outcome) == []
    assert await value(store, "jobs.*::text", outcome.job.id) == before
    assert await value(store, "status", outcome.job.id) == status


async def test_a_plain_completion_may_be_settled_twice_too(store: Store) -> None:
    outcome = Outcome.complete(await running(store, await live_worker(store)), None)
    assert await store.complete([outcome]) == []
    assert await store.complete([outcome]) == []


async def test_a_completed_job_has_a_result_an_end_and_no_record_of_attempts(store: Store) -> None:
    job = await running(store, await live_worker(store))
    await settle(store, Outcome.complete(job, '{"n": 1}'))
    found = await value(store, f"{STATE}, result, error, finished_at IS NOT NULL", job.id)
    assert found == ("COMPLETED", 1, 1, b'{"n": 1}', None, True)
    assert (await store.job(job.id) or (None, None))[1] == []


async def test_completing_after_a_failed_attempt_clears_its_error(store: Store) -> None:
    worker = await live_worker(store)
    for settled in ("plain", "with result"):
        job = await running(store, worker)
        await settle(store, Outcome.retry(job, "why", 0.0))
        [again] = await store.claim(worker, [job.id])
        if settled == "plain":
            await store.complete([Outcome.complete(again, None)])
        else:
            await settle(store, Outcome.complete(again, "1"))
        assert await value(store, "status, error, attempt", job.id) == ("COMPLETED", None, 2)


async def test_a_retry_waits_its_delay_from_the_settle_on_and_records_the_attempt(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    settled = await store.settle([Outcome.retry(job, "why", 9.0)])
    [(waiting, due_ms)] = settled.waiting
    due, gap = await value(store, "(extract(epoch FROM run_at) * 1000)::float8, reconcile_at - run_at", job.id)
    assert (waiting, due_ms, gap.total_seconds()) == (job.id, due, 1.0)
    assert 0 <= due - 9_000 - await store.clock_ms() + 1_000 <= 1_000
    assert await value(store, f"{STATE}, error, finished_at", job.id) == ("PENDING", 1, 1, "why", None)
    columns = "attempt, fence, worker_id, error, finished_at >= started_at"
    assert await value(store, columns, job.id, "attempts", "job_id") == (1, 1, worker, "why", True)
    assert await store.claim(worker, [job.id]) == []


async def test_a_failed_job_has_one_dead_letter_and_one_record_however_often_it_is_settled(store: Store) -> None:
    job = await running(store, await live_worker(store), type="T")
    for _ in range(3):
        assert await settle(store, Outcome.fail(job, "why")) == []
    assert await value(store, f"{STATE}, error, finished_at IS NOT NULL", job.id) == ("FAILED", 1, 1, "why", True)
    assert await store.dead_letters() == [(job.id, "T", "why")]
    assert await value(store, "attempt, error", job.id, "attempts", "job_id") == (1, "why")


async def test_a_snooze_gives_the_attempt_back_and_moves_the_due_time(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    settled = await store.settle([Outcome.snooze(job, 5.0)])
    assert [i for i, _ in settled.waiting] == [job.id]
    assert await value(store, f"{STATE}, run_at > now() + interval '4 seconds'", job.id) == ("PENDING", 0, 1, True)
    assert (await store.job(job.id) or (None, None))[1] == []


async def test_a_release_gives_the_attempt_back_and_leaves_the_job_due_when_it_was(store: Store) -> None:
    worker = await live_worker(store)
    [job_id] = await submitted(store)
    was_due = await value(store, "run_at", job_id)
    [job] = await store.claim(worker, [job_id])
    assert [i for i, _ in (await store.settle([Outcome.release(job)])).waiting] == [job_id]
    assert await value(store, f"{STATE}, run_at", job_id) == ("PENDING", 0, 1, was_due)
    [again] = await store.claim(worker, [job_id])
    assert (again.attempt, again.fence) == (1, 2)


async def test_a_cancelled_running_job_stays_cancelled_whatever_its_handler_did(store: Store) -> None:
    worker = await live_worker(store)
    for make, _ in OUTCOMES.values():
        job = await running(store, worker)
        assert await store.cancel(job.id)
        assert await settle(store, make(job)) == [make(job)]
        assert await value(store, "status", job.id) == "CANCELLED"


async def test_in_a_batch_the_stale_outcomes_are_lost_and_the_others_settled(store: Store) -> None:
    worker = await live_worker(store)
    jobs = [await running(store, worker) for _ in range(6)]
    stale = {jobs[1].id, jobs[4].id}
    for job_id in stale:
        await store.cancel(job_id)
    mixed = [make(job) for (make, _), job in zip(OUTCOMES.values(), jobs, strict=False)]
    settled = await store.settle(mixed)
    assert {o.job.id for o in settled.lost} == stale
    assert await store.complete([Outcome.complete(job, None) for job in jobs[4:]]) == [Outcome.complete(jobs[4], None)]
    statuses = [await value(store, "status", job.id) for job in jobs]
    assert statuses == ["COMPLETED", "CANCELLED", "FAILED", "PENDING", "CANCELLED", "COMPLETED"]


async def test_completions_of_different_fences_settle_in_one_call(store: Store) -> None:
    worker = await live_worker(store)
    first, second = await running(store, worker), await running(store, worker)
    [second] = await store.claim(worker, [second.id])
    assert (first.fence, second.fence) == (1, 2)
    assert await store.complete([Outcome.complete(first, None), Outcome.complete(second, None)]) == []


async def test_a_result_that_cannot_be_stored_settles_nothing_of_its_batch(store: Store) -> None:
    worker = await live_worker(store)
    good, bad = await running(store, worker), await running(store, worker)
    with pytest.raises(ValueRefused):
        await store.settle([Outcome.complete(good, "1"), Outcome.complete(bad, "{not json")])
    assert await value(store, "status", good.id) == await value(store, "status", bad.id) == "PROCESSING"


async def test_a_job_without_a_handler_goes_back_unburned_until_it_is_overdue(store: Store) -> None:
    worker = await live_worker(store)
    fresh, overdue = await running(store, worker), await running(store, worker, type="LOST")
    await alter(store, "jobs SET run_at = now() - interval '61 seconds' WHERE id", overdue.id)
    released = {job.id: job for job, _ in await store.postpone([fresh, overdue], 60.0)}
    assert {i: job.status for i, job in released.items()} == {fresh.id: "PENDING", overdue.id: "FAILED"}
    assert await value(store, "status, attempt", fresh.id) == ("PENDING", 0)
    [(dead_id, type, error)] = await store.dead_letters()
    assert (dead_id, type) == (overdue.id, "LOST")
    assert "no worker has a handler for type 'LOST'" in error
    assert await store.postpone([fresh, overdue], 60.0) == []


# -- rescue


async def test_a_rescue_gives_back_the_jobs_of_dead_and_vanished_workers_only(store: Store) -> None:
    alive, lapsed, gone = [await live_worker(store) for _ in range(3)]
    kept, lapsed_job, gone_job = [await running(store, worker) for worker in (alive, lapsed, gone)]
    [waiting] = await submitted(store)
    await expire(store, lapsed)
    await store.postgres.fetch(f"DELETE FROM scheduler.workers WHERE id = '{gone.hex()}'::uuid")
    assert await store.any_dead()
    rescued = await store.rescue()
    assert {(job.id, job.status) for job in rescued} == {(lapsed_job.id, "PENDING"), (gone_job.id, "PENDING")}
    assert await value(store, STATE, kept.id) == ("PROCESSING", 1, 1)
    assert await value(store, STATE, waiting) == ("PENDING", 0, 0)
    assert {worker.id for worker in await store.workers()} == {alive}
    assert not await store.any_dead()
    assert await store.rescue() == []


async def test_a_crash_was_an_attempt_and_the_job_is_due_at_once(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    await expire(store, worker)
    [rescued] = await store.rescue()
    columns = f"{STATE}, run_at > started_at, run_at <= now(), reconcile_at::text"
    assert await value(store, columns, job.id) == ("PENDING", 1, 1, True, True, "-infinity")
    columns = "attempt, worker_id, error"
    error = "the worker died: its lease ran out during attempt 1"
    assert await value(store, columns, job.id, "attempts", "job_id") == (1, worker, rescued.error) == (1, worker, error)


async def test_a_crash_in_the_last_attempt_makes_a_dead_letter(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker, max_attempts=1, type="POISON")
    await expire(store, worker)
    [rescued] = await store.rescue()
    assert (rescued.status, rescued.type) == ("FAILED", "POISON")
    assert await value(store, f"{STATE}, finished_at IS NOT NULL", job.id) == ("FAILED", 1, 1, True)
    assert await store.dead_letters() == [(job.id, "POISON", rescued.error)]


async def test_rescuers_at_work_together_give_each_job_back_once(store: Store) -> None:
    workers = [await live_worker(store) for _ in range(4)]
    jobs = {(await running(store, worker)).id for worker in workers for _ in range(5)}
    for worker in workers:
        await expire(store, worker)
    rescued = await asyncio.gather(*(store.rescue() for _ in range(6)))
    assert sorted(job.id for some in rescued for job in some) == sorted(jobs)


# -- leases


async def test_a_heartbeat_says_whether_the_lease_was_unbroken(store: Store) -> None:
    worker = new_id()

    async def beat() -> bool:
        beaten = await store.heartbeat(worker, name="w", lease_seconds=60, types=["A"], counters='{"claimed": 3}')
        return beaten[0]

    assert [await beat(), await beat()] == [False, True]
    await expire(store, worker)
    assert [await beat(), await beat()] == [False, True]
    [shown] = await store.workers()
    assert (shown.id, shown.name, shown.types, shown.counters) == (worker, "w", ("A",), b'{"claimed": 3}')


async def test_a_heartbeat_hands_over_each_cancellation_once(store: Store) -> None:
    worker = await live_worker(store)
    cancelled, kept = await running(store, worker), await running(store, worker)
    assert await store.cancel(cancelled.id)
    assert not await store.cancel(cancelled.id)
    beats = [(await store.heartbeat(worker, name="w", lease_seconds=60, types=[], counters="{}"))[1] for _ in range(2)]
    assert beats == [[cancelled.id], []]
    assert await store.not_held(worker, [cancelled.id, kept.id, gone := new_id()]) == [cancelled.id, gone]


# -- looking


async def test_finished_names_the_final_jobs_and_those_that_are_gone(store: Store) -> None:
    worker = await live_worker(store)
    buried, going, gone = await dead(store), await running(store, worker), new_id()
    [waiting] = await submitted(store)
    assert sorted(await store.finished([buried, going.id, waiting, gone])) == sorted([buried, gone])


async def test_unfinished_jobs_are_counted_by_what_they_wait_for(store: Store) -> None:
    worker = await live_worker(store)
    await submitted(store, 3)
    await submitted(store, 2, delay_seconds=60.0)
    await running(store, worker)
    await dead(store)
    [oldest] = await submitted(store)
    await alter(store, "jobs SET run_at = now() - interval '90 seconds' WHERE id", oldest)
    due, later, processing, age = await store.live_counts(100)
    assert (due, later, processing) == (4, 2, 1)
    assert 90 <= age < 95
    assert await store.backlog(100) == 7
    assert await store.backlog(5) == 5


async def test_pages_go_from_new_to_old_and_filter(store: Store) -> None:
    ids = [(await submitted(store, type="A" if n % 2 else "B"))[0] for n in range(6)]
    await store.cancel(ids[0])
    assert [row[0] for row in await store.page(None, None, None, 4)] == ids[:1:-1]
    assert [row[0] for row in await store.page(None, None, ids[2], 4)] == [ids[1], ids[0]]
    assert [row[0] for row in await store.page("PENDING", "B", None, 4)] == [ids[4], ids[2]]


# -- submitting


async def test_inserting_the_same_ids_again_after_a_lost_reply_adds_nothing(store: Store) -> None:
    jobs = [new_job() for _ in range(3)]
    assert [await store.insert(jobs), await store.insert([*jobs, new_job()])] == [3, 1]


async def test_a_whole_insert_writes_nothing_when_one_key_is_taken_and_says_whose_it_is(store: Store) -> None:
    taken = new_job(idempotency_key="k", fingerprint=b"f")
    assert await store.insert_whole([taken]) is None
    assert await store.insert_whole([]) is None
    batch = [new_job(), new_job(idempotency_key="k"), new_job()]
    found = await store.insert_whole(batch)
    assert found is not None
    assert [(a.id, a.key, a.fingerprint, a.status) for a in found] == [(taken.id, "k", b"f", "PENDING")]
    assert await store.backlog(100) == 1


async def test_the_record_itself_refuses_what_no_job_can_be(store: Store) -> None:
    import psycopg

    [job] = await submitted(store)
    for change in (
        "status = 'DONE'",
        "finished_at = now()",
        "status = 'COMPLETED'",
        "attempt = 5",
        "attempt = -1",
        "max_attempts = 0",
        "timeout_seconds = 0",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await alter(store, f"jobs SET {change} WHERE id", job)
