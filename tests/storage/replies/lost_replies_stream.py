"""What a lost reply of Redis leads to, command by command: everything may be repeated, nothing is lost by it."""

from __future__ import annotations

from scheduler.jobs.job import id_text
from scheduler.storage.rows import Letter
from scheduler.storage.stream import Delivery, Share, Stream
from tests.cluster import eventually
from tests.storage.factory import new_id, submitted
from tests.storage.replies.lost_replies import Table, World

ON_REDIS = Table()
ME, OTHER = "a-consumer", "its-heir"


async def published(w: World, count: int = 1) -> list[bytes]:
    ids = await submitted(w.record, count)
    await w.index.publish(ids)
    return ids


async def delivered(w: World) -> tuple[bytes, Delivery]:
    """A job whose entry `ME` has read and not acknowledged."""
    [job_id] = await published(w)
    [delivery] = await w.index.read(ME, 9)
    return job_id, delivery


async def lengths(w: World) -> tuple[int, int, int, int]:
    """Entries on the stream, pending ones, ids in the retry ZSET, dead letters."""
    found = await w.index.lengths()
    return found.stream, found.pending, found.retry, found.dlq


@ON_REDIS.of(Stream.ensure_group)
async def the_group_exists_and_may_be_made_again(w: World) -> None:
    await w.index._redis.delete(w.index.stream)
    await w.lose(w.stream.ensure_group())
    assert await w.index.consumers() == {}
    ids = await published(w)
    await w.stream.ensure_group()
    assert await w.work_off() == ids


@ON_REDIS.of(Stream.eviction_policy)
async def a_policy_that_does_not_arrive_is_unknown_and_no_error(w: World) -> None:
    await w.lose(w.stream.eviction_policy(), raises=None)
    assert await w.stream.eviction_policy() == await w.index.eviction_policy() == "noeviction"


@ON_REDIS.of(Stream.publish)
async def a_job_published_twice_runs_once_and_leaves_nothing_behind(w: World) -> None:
    ids = await submitted(w.record, 2)
    await w.lose(w.stream.publish(ids))
    assert await lengths(w) == (2, 0, 0, 0)
    assert sorted(await w.reconciled()) == ids, "the publisher gives up; the record still says that they are due"
    assert await lengths(w) == (4, 0, 0, 0)
    assert await w.work_off() == ids


@ON_REDIS.of(Stream.schedule)
async def a_retry_is_noted_once(w: World) -> None:
    [job_id] = await submitted(w.record)
    await w.lose(w.stream.schedule({job_id: 5.0}))
    for _ in range(2):
        assert await w.index._redis.zrange(w.index.retry, 0, -1, withscores=True) == [(job_id, 5.0)]
        await w.stream.schedule({job_id: 5.0})
    await w.index.promote(5.0)
    assert await w.work_off() == [job_id]


@ON_REDIS.of(Stream.promote)
async def a_retry_is_moved_once(w: World) -> None:
    [job_id] = await submitted(w.record)
    await w.index.schedule({job_id: 5.0})
    await w.lose(w.stream.promote(5.0))
    assert await lengths(w) == (1, 0, 0, 0)
    assert await w.stream.promote(5.0) == 0
    assert await w.work_off() == [job_id]


@ON_REDIS.of(Stream.read)
async def a_delivery_that_did_not_arrive_is_found_among_ones_own(w: World) -> None:
    [job_id] = await published(w)
    await w.lose(w.stream.read(ME, 9))
    assert await w.index.consumers() == {ME: 1}
    [ghost] = await w.stream.own_pending(ME, 9)
    assert ghost.job_id == job_id
    assert await lengths(w) == (1, 1, 0, 0), "there is no second entry to read"
    await w.stream.ack([ghost.entry])
    assert await lengths(w) == (1, 0, 0, 0)


@ON_REDIS.of(Stream.take)
async def a_share_that_did_not_arrive_is_found_among_ones_own(w: World) -> None:
    [job_id] = await published(w)
    await w.lose(w.stream.take(ME, 9))
    assert await w.stream.take(ME, 9) == Share([], 0)
    assert [ghost.job_id for ghost in await w.stream.own_pending(ME, 9)] == [job_id]


@ON_REDIS.of(Stream.forward)
async def a_delivery_is_moved_to_a_lane_once_and_may_be_moved_again(w: World) -> None:
    job_id, delivery = await delivered(w)
    await w.lose(w.stream.forward("NOOP", [delivery]))
    await w.stream.forward("NOOP", [delivery])
    w.stream.types = frozenset({"NOOP"})
    await w.stream.open_lanes()
    [moved] = (await w.stream.take(OTHER, 9)).deliveries
    assert (moved.job_id, await lengths(w)) == (job_id, (2, 1, 0, 0))
    await w.stream.ack([moved.entry])


@ON_REDIS.of(Stream.open_lanes)
async def lanes_may_be_opened_and_closed_again(w: World) -> None:
    await w.index.open_lanes(["OTHER"])
    await w.lose(w.stream.open_lanes(["NOOP"]))
    for _ in range(2):
        await w.stream.open_lanes(["NOOP"])
        assert w.stream.lanes == ("NOOP",)


@ON_REDIS.of(Stream.own_pending)
async def what_is_pending_stays_so_however_often_it_is_looked_at(w: World) -> None:
    _, delivery = await delivered(w)
    await w.lose(w.stream.own_pending(ME, 9))
    assert await w.index.consumers() == {ME: 1}
    assert await w.stream.own_pending(ME, 9) == [delivery]


@ON_REDIS.of(Stream.ack)
async def an_entry_is_acknowledged_and_may_be_again(w: World) -> None:
    _, delivery = await delivered(w)
    await w.lose(w.stream.ack([delivery.entry]))
    for _ in range(2):
        assert await lengths(w) == (1, 0, 0, 0)
        await w.stream.ack([delivery.entry])
    assert await w.index.trim() == 1


@ON_REDIS.of(Stream.trim)
async def what_is_trimmed_was_acknowledged_and_the_rest_stays(w: World) -> None:
    _, delivery = await delivered(w)
    await w.index.ack([delivery.entry])
    ids = await published(w)
    await w.lose(w.stream.trim())
    assert await lengths(w) == (1, 0, 0, 0)
    assert await w.stream.trim() == 0
    assert await w.work_off() == ids


@ON_REDIS.of(Stream.unschedule)
async def a_cancelled_jobs_time_is_forgotten_and_its_neighbours_stays(w: World) -> None:
    cancelled, other = new_id(), new_id()
    await w.index.schedule({cancelled: 5.0, other: 6.0})
    await w.lose(w.stream.unschedule(cancelled))
    for _ in range(2):
        assert await w.index._redis.zrange(w.index.retry, 0, -1) == [other]
        await w.stream.unschedule(cancelled)


@ON_REDIS.of(Stream.look)
async def a_turn_that_nobody_knows_of_is_still_ones_own_and_ends_by_itself(w: World) -> None:
    await w.lose(w.stream.look("me", 0.6))
    assert 0 < await w.index._redis.pttl(w.index._turn) <= 600
    assert not (await w.index.look("another", 0.6)).mine
    assert (await w.stream.look("me", 0.6)).mine

    async def another() -> bool:
        return (await w.index.look("another", 0.6)).mine

    await eventually(another, within=5, of="the next turn")


@ON_REDIS.of(Stream.dead_clear)
async def the_letters_begin_anew(w: World) -> None:
    await w.index.dead_letter([Letter(new_id(), "FAIL", "why")])
    await w.lose(w.stream.dead_clear())
    for _ in range(2):
        assert await lengths(w) == (0, 0, 0, 0)
        assert await w.index.dead_digest() == "0:0"
        await w.stream.dead_clear()


@ON_REDIS.of(Stream.adopt, replies=2)
async def a_dead_consumers_entries_are_adopted_by_the_second_call_at_the_latest(w: World) -> None:
    job_id, delivery = await delivered(w)
    await w.lose(w.stream.adopt(ME, OTHER))
    assert await w.index.consumers() == ({ME: 1} if w.reply == 1 else {ME: 0, OTHER: 1})
    assert await w.stream.adopt(ME, OTHER) == (1 if w.reply == 1 else 0)
    assert await w.index.consumers() == {ME: 0, OTHER: 1}
    assert await w.stream.own_pending(OTHER, 9) == [Delivery(delivery.entry, job_id)]


@ON_REDIS.of(Stream.forget)
async def an_empty_consumer_is_gone_and_may_be_forgotten_again(w: World) -> None:
    _, delivery = await delivered(w)
    await w.index.ack([delivery.entry])
    await w.lose(w.stream.forget(ME))
    for _ in range(2):
        assert await w.index.consumers() == {}
        await w.stream.forget(ME)


@ON_REDIS.of(Stream.dead_letter)
async def a_dead_letter_is_told_once(w: World) -> None:
    job_id = new_id()
    await w.lose(w.stream.dead_letter([Letter(job_id, "FAIL", "why")]))
    for _ in range(2):
        assert await lengths(w) == (0, 0, 0, 1)
        assert await w.index.dead_ids() == [id_text(job_id).encode()]
        await w.stream.dead_letter([Letter(job_id, "FAIL", "why")])


@ON_REDIS.of(Stream.exhume)
async def a_letter_is_taken_off_and_its_neighbour_stays(w: World) -> None:
    redriven, other = new_id(), new_id()
    await w.index.dead_letter([Letter(job_id, "FAIL", "why") for job_id in (redriven, other)])
    await w.lose(w.stream.exhume([redriven]))
    for _ in range(2):
        assert await w.index.dead_ids() == [id_text(other).encode()]
        assert await lengths(w) == (0, 0, 0, 1)
        await w.stream.exhume([redriven])
