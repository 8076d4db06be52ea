"""Settle: who may write what about a job, and what its row says then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scheduler.errors import ValueRefused
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.storage.rows import Letter
from scheduler.storage.store import Store
from tests.storage.factory import expire, live_worker, rescue, running, submitted, value

STATE = "status, attempt, fence"


OUTCOMES: dict[str, tuple[Callable[[ClaimedJob], Outcome], str]] = {
    "complete": (lambda job: Outcome.complete(job, '{"n": 1}'), "COMPLETED"),
    "retry": (lambda job: Outcome.retry(job, "why", 9.0), "PENDING"),
    "fail": (lambda job: Outcome.fail(job, "why"), "FAILED"),
    "snooze": (lambda job: Outcome.snooze(job, 9.0), "PENDING"),
    "release": (Outcome.release, "PENDING"),
}
each_outcome = pytest.mark.parametrize("kind", OUTCOMES)


async def settle(store: Store, outcome: Outcome) -> list[Outcome]:
    """What was lost of it."""
    return (await store.settle([outcome])).lost


async def complete(store: Store, *jobs: ClaimedJob) -> list[bytes]:
    """The jobs whose plain completion was lost."""
    return [o.job.id for o in (await store.complete([Outcome.complete(job, None) for job in jobs])).lost]


@each_outcome
async def test_an_outcome_is_lost_and_changes_nothing_once_another_claim_has_happened(store: Store, kind: str) -> None:
    stale_worker, other = await live_worker(store), await live_worker(store)
    stale = await running(store, stale_worker)
    await expire(store, stale_worker)
    await rescue(store)
    [current] = await store.claim(other, [stale.id])
    before = await value(store, "jobs.*::text", stale.id)
    outcome = OUTCOMES[kind][0](stale)
    assert await settle(store, outcome) == [outcome]
    assert await complete(store, stale) == [stale.id]
    assert await value(store, "jobs.*::text", stale.id) == before
    assert await store.dead_count() == 0
    assert await complete(store, current) == []


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
    job = await running(store, await live_worker(store))
    assert [await complete(store, job), await complete(store, job)] == [[], []]


async def test_a_completed_job_has_a_result_an_end_and_no_record_of_attempts(store: Store) -> None:
    job = await running(store, await live_worker(store))
    await settle(store, Outcome.complete(job, '{"n": 1}'))
    found = await value(store, f"{STATE}, result, error, finished_at IS NOT NULL", job.id)
    assert found == ("COMPLETED", 1, 1, b'{"n": 1}', None, True)
    assert [each.status for each in (await store.job(job.id)).attempts] == ["COMPLETED"]


async def test_completing_after_a_failed_attempt_clears_its_error(store: Store) -> None:
    worker = await live_worker(store)
    for settled in ("plain", "with result"):
        job = await running(store, worker)
        await settle(store, Outcome.retry(job, "why", 0.0))
        [again] = await store.claim(worker, [job.id])
        if settled == "plain":
            await complete(store, again)
        else:
            await settle(store, Outcome.complete(again, "1"))
        assert await value(store, "status, error, attempt", job.id) == ("COMPLETED", None, 2)


async def test_a_retry_waits_its_delay_from_the_settle_on_and_records_the_attempt(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    settled = await store.settle([Outcome.retry(job, "why", 9.0)])
    [(waiting, due_ms)] = settled.due_ms.items()
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
    assert await store.dead_letters(99) == [Letter(job.id, "T", "why")]
    assert await value(store, "attempt, error", job.id, "attempts", "job_id") == (1, "why")


async def test_a_snooze_gives_the_attempt_back_and_moves_the_due_time(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    settled = await store.settle([Outcome.snooze(job, 5.0)])
    assert list(settled.due_ms) == [job.id]
    assert await value(store, f"{STATE}, run_at > now() + interval '4 seconds'", job.id) == ("PENDING", 0, 1, True)
    assert (await store.job(job.id)).attempts == []


async def test_a_release_gives_the_attempt_back_and_leaves_the_job_due_when_it_was(store: Store) -> None:
    worker = await live_worker(store)
    [job_id] = await submitted(store)
    was_due = await value(store, "run_at", job_id)
    [job] = await store.claim(worker, [job_id])
    assert list((await store.settle([Outcome.release(job)])).due_ms) == [job_id]
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
    assert await complete(store, *jobs[4:]) == [jobs[4].id]
    statuses = [await value(store, "status", job.id) for job in jobs]
    assert statuses == ["COMPLETED", "CANCELLED", "FAILED", "PENDING", "CANCELLED", "COMPLETED"]


async def test_completions_of_different_fences_settle_in_one_call(store: Store) -> None:
    worker = await live_worker(store)
    first, second = await running(store, worker), await running(store, worker)
    [second] = await store.claim(worker, [second.id])
    assert (first.fence, second.fence) == (1, 2)
    assert await complete(store, first, second) == []


async def test_a_result_that_cannot_be_stored_settles_nothing_of_its_batch(store: Store) -> None:
    worker = await live_worker(store)
    good, bad = await running(store, worker), await running(store, worker)
    with pytest.raises(ValueRefused):
        await store.settle([Outcome.complete(good, "1"), Outcome.complete(bad, "{not json")])
    assert await value(store, "status", good.id) == await value(store, "status", bad.id) == "PROCESSING"


async def test_a_plain_completion_leaves_the_row_that_the_full_settle_would_leave(store: Store) -> None:
    worker, other = await live_worker(store), await live_worker(store)
    ids = await submitted(store, 2, timeout_seconds=9.0)
    for _ in range(2):  # a failure and a crash before, so that there is something to clear and something to keep
        failed = await store.claim(other, ids)
        await store.settle([Outcome.retry(job, "why", 0.0) for job in failed])
    await store.claim(other, ids)
    await expire(store, other)
    await rescue(store)
    plain, full = await store.claim(worker, ids)
    await store.complete([Outcome.complete(plain, None)])
    await store.settle([Outcome.complete(full, None)])
    same = "to_jsonb(j) - 'id' - 'finished_at'"
    assert await value(store, same, plain.id, "jobs j") == await value(store, same, full.id, "jobs j")
    columns = "status, crashes, error, result, finished_at >= started_at"
    for job in (plain, full):
        assert await value(store, columns, job.id) == ("COMPLETED", 1, None, None, True)


async def test_a_worker_that_leaves_gives_back_what_it_does_not_know_it_holds_unburned(store: Store) -> None:
    leaving, other = await live_worker(store), await live_worker(store)
    [job_id] = await submitted(store)
    await store.claim(leaving, [job_id])  # and its reply is lost
    kept = await running(store, other)
    held = await store.held_by(leaving)
    await store.settle([Outcome.release(job) for job in held])
    await store.deregister(leaving)
    assert [job.id for job in held] == [job_id]
    assert await value(store, "status, attempt, crashes", job_id) == ("PENDING", 0, 0)
    assert await value(store, "status", kept.id) == "PROCESSING"
    [again] = await store.claim(other, [job_id])
    assert (again.fence, again.attempt) == (2, 1)
