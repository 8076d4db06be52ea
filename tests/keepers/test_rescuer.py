"""The rescuer on real stores: cut short between any two of its steps, the next one goes on where it stopped."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.errors import StoreUnavailable
from scheduler.jobs.job import ClaimedJob, id_text
from scheduler.keepers.rescuer import BATCH, Rescuer
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.storage.factory import expire, live_worker, new_id, running, value


class Steady:
    """A heartbeat that has renewed its lease for a minute."""

    steady_seconds = 60.0
    worker_text = id_text(new_id())


def rescuer(store: Store, stream: Stream, steady_seconds: float = 60.0) -> Rescuer:
    heartbeat: Any = Steady()
    heartbeat.steady_seconds = steady_seconds
    return Rescuer(store, stream, heartbeat, 5.0)


async def orphans(store: Store) -> tuple[ClaimedJob, ClaimedJob]:
    """What a worker held whose lease ran out: a job with attempts left, and one in its last attempt."""
    worker = await live_worker(store)
    jobs = await running(store, worker), await running(store, worker, max_attempts=1)
    await expire(store, worker)
    return jobs


async def test_one_tick_gives_back_tells_redis_and_forgets_the_dead(store: Store, stream: Stream) -> None:
    again, spent = await orphans(store)
    await rescuer(store, stream).tick()
    assert await value(store, "status, attempt, crashes", again.id) == ("PENDING", 1, 1)
    assert await value(store, "status, attempt", spent.id) == ("FAILED", 1)
    assert [entry.job_id for entry in await stream.read("a", 9)] == [again.id]
    assert await stream.dead_ids() == [id_text(spent.id).encode()]
    assert await store.postgres.fetch("SELECT id FROM scheduler.workers") == []


async def test_it_leaves_the_dead_alone_until_it_has_held_its_own_lease_for_one_lease(
    store: Store, stream: Stream
) -> None:
    again, _ = await orphans(store)
    await rescuer(store, stream, steady_seconds=4.9).tick()
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
            await rescuer(store, stream).tick()
    await rescuer(store, stream).tick()
    assert await value(store, "status, attempt, crashes", again.id) == ("PENDING", 1, 1)
    assert await value(store, "status, attempt", spent.id) == ("FAILED", 1)
    published = [entry.job_id for entry in await stream.read("a", 9)] if (await stream.lengths()).stream else []
    assert published == [again.id] or [job.id for job in await store.overlooked(3_600.0, 9)] == [again.id]
    assert [letter.id for letter in await store.dead_letters(99)] == [spent.id]
    assert not await store.any_dead()


async def test_more_orphans_than_a_look_shows_are_looked_for_again_at_once(
    store: Store, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, spent = await orphans(store)
    monkeypatch.setattr("scheduler.keepers.rescuer.BATCH", 1)
    own = rescuer(store, stream)
    waits = [await own.tick() for _ in range(3)]
    assert [wait > 0 for wait in waits] == [False, False, True]
    assert {await value(store, "status", job.id) for job in (again, spent)} == {"PENDING", "FAILED"}
    assert BATCH > 1
