"""Claim: who gets a job, when, and under which fence."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from scheduler.errors import JobNotFound
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.storage.postgres import Postgres
from scheduler.storage.rows import Settled
from scheduler.storage.store import INLINE_BYTES, Store
from tests.storage.factory import alter, expire, live_worker, new_id, running, submitted, value

STATE = "status, attempt, fence"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    own = Store(Postgres(database_url, size=8, deadline_seconds=5, name="tests"))
    yield own
    await own.close()


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
    assert job == ClaimedJob(job_id, 1, "T", 1, 3, 7.0, b'{"a": 1}')
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
    late, outcome = Outcome.complete(lost_reply, None), Outcome.complete(again, None)
    assert await store.complete([late]) == Settled(lost=[late])
    assert await store.complete([outcome]) == Settled(done=[outcome])


async def test_a_claim_is_repeated_though_the_lease_lapsed_meanwhile_but_nothing_new_is_claimed(store: Store) -> None:
    worker = await live_worker(store)
    [held, fresh] = await submitted(store, 2)
    await store.claim(worker, [held])  # and its reply is lost
    await expire(store, worker)  # PostgreSQL was away; the reader is back before the heartbeat
    again = await store.claim(worker, [held, fresh])
    assert [(job.id, job.fence, job.attempt) for job in again] == [(held, 2, 1)]


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "CANCELLED"])
async def test_a_final_job_is_never_claimed_again_not_even_by_the_worker_that_had_it(store: Store, status: str) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    await alter(store, f"jobs SET finished_at = now(), status = '{status}' WHERE id", job.id)
    assert await store.claim(worker, [job.id]) == []
    assert await value(store, STATE, job.id) == (status, 1, 1)


async def test_a_claim_leaves_large_payloads_to_be_fetched_one_by_one(store: Store) -> None:
    """Compressed it is small; what counts is what would arrive."""
    text = '{"a": "' + "x" * INLINE_BYTES + '"}'
    ids = [*await submitted(store), *await submitted(store, payload=text)]
    jobs = {job.id: job for job in await store.claim(await live_worker(store), ids)}
    assert [jobs[job_id].payload for job_id in ids] == [b"{}", None]
    assert await store.payload(ids[1]) == text.encode()
    with pytest.raises(JobNotFound):
        await store.payload(new_id())
