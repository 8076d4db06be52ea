"""The rescuer on real stores: cut short between any two of its steps, the next one goes on where it stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from scheduler.errors import StoreUnavailable
from scheduler.jobs.job import ClaimedJob, id_text
from scheduler.keepers.rescuer import BATCH, Rescuer
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.cluster import Cluster, eventually
from tests.storage.factory import any_dead, expire, live_worker, running, value

LEASE_SECONDS = 0.5  # two beats are 0.2 s


class Steady:
    """A heartbeat that has renewed its lease for so long."""

    def __init__(self, worker: bytes, steady_seconds: float) -> None:
        self.worker, self.worker_text, self.steady_seconds = worker, id_text(worker), steady_seconds


async def rescuer(store: Store, stream: Stream, steady_seconds: float = 60.0) -> Rescuer:
    heartbeat: Any = Steady(await live_worker(store), steady_seconds)
    return Rescuer(store, stream, heartbeat, LEASE_SECONDS)


async def second_look(own: Rescuer) -> float:
    """Its first sight of the leases, and the round after the wait that it asks for."""
    await asyncio.sleep(await own.tick())
    return await own.tick()


async def orphans(store: Store) -> tuple[ClaimedJob, ClaimedJob]:
    """What a worker held whose lease ran out: a job with attempts left, and one in its last attempt."""
    worker = await live_worker(store)
    jobs = await running(store, worker), await running(store, worker, max_attempts=1)
    await expire(store, worker)
    return jobs


async def test_one_tick_gives_back_tells_redis_and_forgets_the_dead(store: Store, stream: Stream) -> None:
    again, spent = await orphans(store)
    await second_look(own := await rescuer(store, stream))
    assert await value(store, "status, attempt, crashes", again.id) == ("PENDING", 1, 1)
    assert await value(store, "status, attempt", spent.id) == ("FAILED", 1)
    assert [entry.job_id for entry in await stream.read("a", 9)] == [again.id]
    assert await stream.dead_ids() == [id_text(spent.id).encode()]
    assert [lease.id for lease in await store.leases()] == [own._heartbeat.worker]


async def test_it_leaves_the_dead_alone_until_it_has_held_its_own_lease_for_one_lease(
    store: Store, stream: Stream
) -> None:
    again, _ = await orphans(store)
    await second_look(await rescuer(store, stream, steady_seconds=0.4))
    assert await value(store, "status", again.id) == "PROCESSING"


STEPS: list[tuple[type, str]] = [
    (Store, "orphans"),
    (Store, "rescue"),
    (Stream, "publish"),
    (Stream, "dead_letter"),
    (Store, "forget_dead"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
async def test_a_rescuer_that_dies_at_any_step_leaves_nothing_that_the_next_tick_of_another_does_not_finish(
    store: Store, stream: Stream, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, when: str
) -> None:
    again, spent = await orphans(store)
    healthy = getattr(owner, step)

    async def dies(*arguments: Any) -> Any:
        if when == "after":
            await healthy(*arguments)
        raise StoreUnavailable("it", "died")

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, dies)
        with pytest.raises(StoreUnavailable):
            await second_look(await rescuer(store, stream))
    await second_look(await rescuer(store, stream))
    assert await value(store, "status, attempt, crashes", again.id) == ("PENDING", 1, 1)
    assert await value(store, "status, attempt", spent.id) == ("FAILED", 1)
    published = [entry.job_id for entry in await stream.read("a", 9)] if (await stream.lengths()).stream else []
    assert published == [again.id] or [job.id for job in await store.overlooked(3_600.0, 9)] == [again.id]
    assert [letter.id for letter in await store.dead_letters(99)] == [spent.id]
    assert not await any_dead(store)


async def test_more_orphans_than_a_look_shows_are_looked_for_again_at_once(
    store: Store, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, spent = await orphans(store)
    monkeypatch.setattr("scheduler.keepers.rescuer.BATCH", 1)
    own = await rescuer(store, stream)
    waits = [await second_look(own), *[await own.tick() for _ in range(2)]]
    assert [wait > 0 for wait in waits] == [False, False, True]
    assert {await value(store, "status", job.id) for job in (again, spent)} == {"PENDING", "FAILED"}
    assert BATCH > 1


# -- PostgreSQL's clock steps


async def test_leases_that_a_step_of_the_clock_ended_are_left_to_those_who_renew_them(
    store: Store, stream: Stream
) -> None:
    """Leases moved back are a clock moved ahead; the rescuer's own lease may be among them, or just renewed."""
    for own_lapsed in (True, False):
        living = await live_worker(store)
        job = await running(store, living)
        own = await rescuer(store, stream)
        await own.tick()
        await expire(store, living)
        if own_lapsed:
            await expire(store, own._heartbeat.worker)
        for _ in range(3):
            await asyncio.sleep(await own.tick() / 2)
            assert await value(store, "status", job.id) == "PROCESSING"
            await store.heartbeat(living, name="w", lease_seconds=60, types=[], counters="{}")
            await expire(store, living)


async def test_a_rescuer_whose_own_lease_ran_out_finds_no_orphans(store: Store) -> None:
    again, spent = await orphans(store)
    own = await live_worker(store)
    assert {job.id for job in await store.orphans(9, own)} == {again.id, spent.id}
    await expire(store, own)
    assert await store.orphans(9, own) == []


async def test_it_looks_at_each_lease_two_beats_before_its_end_and_at_its_end(store: Store, stream: Stream) -> None:
    """So a dead worker's jobs wait for no second look once its lease has run out."""
    own = await rescuer(store, stream)
    dying = await live_worker(store, lease_seconds=0.45)
    job = await running(store, dying)
    waits = [await own.tick()]
    assert 0.1 < waits[0] <= 0.3
    while await value(store, "status", job.id) == "PROCESSING":
        await asyncio.sleep(waits[-1])
        waits.append(await own.tick())
    assert len(waits) <= 4, "asleep in between"
    assert await value(store, "extract(epoch FROM finished_at - started_at)", job.id, "attempts", "job_id") < 1.5


@pytest.mark.e2e
async def test_a_step_of_the_clock_past_a_lease_takes_no_job_from_living_workers(cluster: Cluster) -> None:
    cluster.settings |= {"lease_seconds": 1.5, "concurrency": 20}
    await cluster.api()
    for _ in range(2):
        await cluster.worker()
    async with cluster.client() as client:
        await client.submit_batch([{"type": "SLEEP", "payload": {"seconds": 6}} for _ in range(40)])
        running = "SELECT count(*) FROM scheduler.jobs WHERE status = 'PROCESSING'"
        await eventually(lambda: cluster.rows(running) == [(40,)], within=20)
        await asyncio.sleep(1.5)  # the rescuers have held their own leases for one lease
        for _ in range(4):
            cluster.rows("UPDATE scheduler.workers SET expires_at = expires_at - interval '10 s' RETURNING id")
            await asyncio.sleep(0.7)
        await cluster.drained()
    ends = "SELECT attempt, crashes, status, count(*) FROM scheduler.jobs GROUP BY 1, 2, 3"
    assert cluster.rows(ends) == [(1, 0, "COMPLETED", 40)]
