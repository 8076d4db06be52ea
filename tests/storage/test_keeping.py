"""What keeps the record whole: the reconciler's question, retention, dead letters, the schema itself."""

from __future__ import annotations

import asyncio

import pytest

from scheduler.errors import JobNotFound
from scheduler.jobs.job import Outcome, id_bytes
from scheduler.storage.rows import Due
from scheduler.storage.store import Store
from tests.storage.factory import alter, dead, live_worker, new_id, running, submitted, value

FIRST, MOST = bytes(16), b"\xff" * 16


# -- overlooked


async def test_a_job_that_nobody_publishes_is_overlooked_at_once(store: Store) -> None:
    [job_id] = await submitted(store)
    await alter(store, "jobs SET reconcile_at = '-infinity' WHERE id", job_id)
    assert await store.overlooked(3_600.0, 100) == [Due(job_id, None)]


async def test_a_delayed_job_is_overlooked_at_once_so_that_redis_hears_of_its_time(store: Store) -> None:
    [job_id] = await submitted(store, delay_seconds=30.0)
    [later] = await store.overlooked(3_600.0, 100)
    assert later.id == job_id
    assert later.due_ms == await value(store, "(extract(epoch FROM run_at) * 1000)::float8", job_id)


async def test_a_published_job_is_overlooked_only_when_it_should_have_left_the_queue(store: Store) -> None:
    fresh, queued, lost = [(await submitted(store))[0] for _ in range(3)]
    await alter(store, "jobs SET reconcile_at = now() - interval '5 seconds' WHERE id", queued)
    await alter(store, "jobs SET reconcile_at = now() - interval '15 seconds' WHERE id", lost)
    assert await store.overlooked(10.0, 100) == [Due(lost, None)]
    assert await store.overlooked(0.0, 100) == [Due(queued, None)]
    assert await value(store, "reconcile_at > now() AND attempt = 0 AND fence = 0", fresh)


async def test_a_job_is_overlooked_once_a_second_not_at_every_look(store: Store) -> None:
    [job_id] = await submitted(store)
    await alter(store, "jobs SET reconcile_at = '-infinity' WHERE id", job_id)
    looks = await asyncio.gather(*(store.overlooked(0.0, 100) for _ in range(4)))
    assert sorted(looks, key=len) == [[], [], [], [Due(job_id, None)]]
    assert await value(store, "reconcile_at - now() BETWEEN '0' AND '1 second'", job_id)


async def test_what_runs_and_what_is_final_is_never_overlooked(store: Store) -> None:
    worker = await live_worker(store)
    job = await running(store, worker)
    cancelled, buried = (await submitted(store))[0], await dead(store)
    await store.cancel(cancelled)
    for job_id in (job.id, cancelled, buried):
        await alter(store, "jobs SET reconcile_at = '-infinity' WHERE id", job_id)
    assert await store.overlooked(0.0, 100) == []


async def test_looks_are_bounded_and_begin_with_the_longest_overlooked(store: Store) -> None:
    ids = await submitted(store, 5)
    for n, job_id in enumerate(ids):
        await alter(store, f"jobs SET reconcile_at = now() - interval '{10 + n} seconds' WHERE id", job_id)
    found = [{job.id for job in await store.overlooked(0.0, 2)} for _ in range(3)]
    assert found == [set(ids[3:]), set(ids[1:3]), {ids[0]}]


# -- retention


async def test_pruning_deletes_what_is_finished_long_enough_and_nothing_else(store: Store) -> None:
    worker = await live_worker(store)
    old, fresh, retrying = [await running(store, worker) for _ in range(3)]
    [pending] = await submitted(store)
    buried = await dead(store)
    await store.settle([Outcome.complete(old, "1"), Outcome.complete(fresh, "1"), Outcome.retry(retrying, "why", 0.0)])
    for job_id in (old.id, buried):
        await alter(store, "jobs SET finished_at = now() - interval '2 hours' WHERE id", job_id)
    assert await store.prune(FIRST, old.id, 3_600.0, 100) == [], "ids younger than the bound are not even looked at"
    assert await store.prune(old.id, MOST, 3_600.0, 100) == [], "nor those where an earlier look ended"
    assert await store.prune(FIRST, MOST, 3_600.0, 100) == [old.id]
    left = {id_bytes(job.id) for job in (await store.page(None, None, None, 100)).jobs}
    assert left == {fresh.id, retrying.id, pending, buried}


async def test_pruning_is_bounded_and_takes_attempts_along(store: Store) -> None:
    worker = await live_worker(store)
    for _ in range(3):
        job = await running(store, worker)
        await store.settle([Outcome.retry(job, "why", 0.0)])
        await store.cancel(job.id)
        await alter(store, "jobs SET finished_at = now() - interval '2 hours' WHERE id", job.id)
    assert [len(await store.prune(FIRST, MOST, 3_600.0, 2)) for _ in range(3)] == [2, 1, 0]
    assert await store.postgres.fetch("SELECT count(*) FROM scheduler.attempts") == [(0,)]


# -- dead letters


async def test_a_redriven_job_is_as_good_as_new_but_for_its_fence_and_history(store: Store) -> None:
    buried = await dead(store, payload='{"a": 1}')
    assert await store.redrive([buried], 0.0) == [buried]
    columns = "status, attempt, fence, error, finished_at, started_at, worker_id, reconcile_at::text, run_at <= now()"
    expected = ("PENDING", 0, 1, None, None, None, None, "-infinity", True)
    assert await value(store, columns, buried) == expected
    assert await store.dead_count() == 0
    [job] = await store.claim(await live_worker(store), [buried])
    assert (job.attempt, job.fence, job.payload) == (1, 2, b'{"a": 1}')
    await store.settle([Outcome.fail(job, "again")])
    assert [each.error for each in (await store.job(buried)).attempts] == ["because", "again"]
    assert [letter.error for letter in await store.dead_letters(99)] == ["again"]


async def test_only_dead_letters_are_sent_back_or_purged(store: Store) -> None:
    job = await running(store, await live_worker(store))
    [pending] = await submitted(store)
    buried = await dead(store)
    assert await store.redrive([job.id, pending, new_id()], 0.0) == []
    assert await store.purge([job.id, pending, new_id()]) == []
    assert await store.purge([job.id, buried]) == [buried]
    with pytest.raises(JobNotFound):
        await store.job(buried)
    assert await store.backlog(100) == 2


async def test_those_who_redrive_at_the_same_time_send_each_letter_back_once(store: Store) -> None:
    ids = [await dead(store) for _ in range(6)]
    sent = await asyncio.gather(*(store.redrive(ids, 0.0) for _ in range(4)))
    assert sorted(job_id for some in sent for job_id in some) == sorted(ids)


async def test_a_rate_spreads_the_redriven_jobs_over_time_in_the_order_given(store: Store) -> None:
    ids = [await dead(store) for _ in range(3)]
    await store.redrive([*ids[::-1]], 10.0)
    waits = [await value(store, "round(extract(epoch FROM run_at - now()))::int", job_id) for job_id in ids]
    assert waits == [30, 20, 10]


async def test_dead_letters_are_matched_by_id_type_words_and_age_oldest_first(store: Store) -> None:
    worker = await live_worker(store)
    ids = []
    for n, error in enumerate(["Disk full", "disk 50% full", "no_route"]):
        job = await running(store, worker, type="A" if n < 2 else "B")
        await store.settle([Outcome.fail(job, error)])
        ids.append(job.id)
        age = f"{100 - n} seconds"
        await alter(store, f"dead_letters SET failed_at = now() - interval '{age}' WHERE job_id", job.id)

    async def match(**given: object) -> list[int]:
        chosen = {"ids": None, "type": None, "error": None, "older": None, "limit": 10, **given}
        return [ids.index(job_id) for job_id in await store.match_dead(**chosen)]  # type: ignore[arg-type]

    assert await match() == [0, 1, 2]
    assert await match(limit=2) == [0, 1]
    assert await match(ids=[ids[2], ids[0], new_id()]) == [0, 2]
    assert await match(ids=[]) == []
    assert await match(type="A") == [0, 1]
    assert await match(error="DISK") == [0, 1]
    assert await match(error="50\\% f") == [1]
    assert await match(older=98.5) == [0, 1]
    assert await match(type="A", error="full", older=99.5) == [0]


async def test_dead_letters_are_listed_newest_job_first_and_counted(store: Store) -> None:
    ids = [await dead(store, type="A" if n % 2 else "B") for n in range(4)]
    assert await store.dead_count() == 4
    assert [id_bytes(job.id) for job in (await store.dead_page(None, None, 3)).jobs] == ids[:0:-1]
    assert [id_bytes(job.id) for job in (await store.dead_page("B", ids[2], 3)).jobs] == [ids[0]]


async def test_no_index_mentions_status_so_that_claims_stay_heap_only(store: Store) -> None:
    ids = await submitted(store, 50)
    jobs = await store.claim(await live_worker(store), ids)
    await store.complete([Outcome.complete(job, None) for job in jobs])
    await store.postgres.fetch("SELECT pg_stat_force_next_flush()")
    counters = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs'"
    await store.close()
    [(updates, hot)] = await store.postgres.fetch(counters)
    assert updates == 100
    assert hot >= 25, "of the 50 claims, all that found room on their page"
