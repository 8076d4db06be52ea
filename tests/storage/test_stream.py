"""The index in Redis: every write may be repeated, every loss is healed, nothing piles up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.crc import key_slot

from scheduler.errors import ConfigurationError, StoreUnavailable
from scheduler.jobs.job import id_text
from scheduler.storage.rows import Letter
from scheduler.storage.stream import Lengths, Stream
from tests.cluster import Cluster, eventually
from tests.storage.factory import new_id
from tests.storage.replies.links import linked, silent_server


def some(count: int) -> list[bytes]:
    return [new_id() for _ in range(count)]


async def lengths(stream: Stream) -> tuple[int, int]:
    """Entries on the stream, and how many of them are pending."""
    found = await stream.lengths()
    return found.stream, found.pending


# -- publish, read, ack, trim


async def test_what_is_published_is_read_once_in_order_by_one_of_the_group(stream: Stream) -> None:
    ids = some(2_500)
    await stream.publish(ids)
    first, second = await stream.read("a", 1_500), await stream.read("b", 1_500)
    assert [delivery.job_id for delivery in first + second] == ids
    assert (len(first), len(second)) == (1_500, 1_000)


async def test_reading_an_empty_stream_waits_a_second_and_wakes_at_once_for_an_entry(stream: Stream) -> None:
    began = time.monotonic()
    assert await stream.read("a", 10) == []
    assert 0.9 <= time.monotonic() - began < 3
    reading = asyncio.ensure_future(stream.read("a", 10))
    [job_id] = some(1)
    await stream.publish([job_id])
    [delivery] = await asyncio.wait_for(reading, 0.8)
    assert delivery.job_id == job_id


async def test_acknowledged_entries_are_trimmed_to_an_empty_stream(stream: Stream) -> None:
    await stream.publish(some(50))
    await stream.ack([delivery.entry for delivery in await stream.read("a", 100)])
    assert await stream.trim() == 50
    assert await stream.lengths() == Lengths(0, 0, 0, 0)


async def test_trimming_keeps_what_is_pending_and_what_nobody_has_read(stream: Stream) -> None:
    ids = some(30)
    await stream.publish(ids)
    read = await stream.read("a", 20)
    await stream.ack([delivery.entry for delivery in read[:5]])
    assert await stream.trim() == 5
    assert await lengths(stream) == (25, 15)
    assert [delivery.job_id for delivery in await stream.own_pending("a", 100)] == ids[5:20]
    assert [delivery.job_id for delivery in await stream.read("b", 100)] == ids[20:]


async def test_trimming_before_anything_was_read_removes_nothing(stream: Stream) -> None:
    await stream.publish(some(3))
    assert await stream.trim() == 0
    assert await lengths(stream) == (3, 0)


async def test_an_entry_trimmed_while_pending_comes_back_empty_and_can_be_acknowledged(
    stream: Stream, cluster: Cluster
) -> None:
    await stream.publish(some(1))
    [delivery] = await stream.read("a", 1)
    with cluster.redis() as client:
        client.xdel(stream.stream, delivery.entry)
    [empty] = await stream.own_pending("a", 10)
    assert (empty.entry, empty.job_id) == (delivery.entry, b"")
    await stream.ack([empty.entry])
    assert await lengths(stream) == (0, 0)


# -- retry


async def test_an_id_is_promoted_when_its_time_has_come_and_never_before(stream: Stream) -> None:
    early, middle, late = some(3)
    await stream.schedule({late: 3_000.0, early: 1_000.0, middle: 2_000.4})
    assert await stream.promote(999.0) == 0
    assert await stream.promote(2_000.0) == 1
    assert await stream.promote(2_001.0) == 1
    assert [delivery.job_id for delivery in await stream.read("a", 10)] == [early, middle]
    assert (await stream.lengths()).retry == 1


async def test_promoting_takes_the_oldest_up_to_its_limit(stream: Stream) -> None:
    ids = some(250)
    await stream.schedule({job_id: float(n) for n, job_id in enumerate(ids)})
    assert [await stream.promote(1e6, 100) for _ in range(4)] == [100, 100, 50, 0]
    assert [delivery.job_id for delivery in await stream.read("a", 300)] == ids


async def test_promoters_at_work_together_move_each_id_once_and_it_is_always_somewhere(
    stream: Stream, cluster: Cluster
) -> None:
    await stream.schedule(dict.fromkeys(some(1_000), 1.0))
    seen: list[int] = []

    def watch() -> bool:
        with cluster.redis() as client, client.pipeline(transaction=True) as both:
            on_stream, waiting = both.xlen(stream.stream).zcard(stream.retry).execute()
            seen.append(on_stream + waiting)
            return bool(waiting == 0)

    async def promote() -> int:
        moved = 0
        while some_more := await stream.promote(1e6, 7):
            moved += some_more
        return moved

    *moved, _ = await asyncio.gather(*(promote() for _ in range(4)), eventually(watch, every=0.002))
    assert sum(moved) == 1_000
    assert set(seen) == {1_000}


async def test_scheduling_again_moves_the_time_and_adds_no_second_entry(stream: Stream) -> None:
    [job_id] = some(1)
    await stream.schedule({job_id: 1_000.0})
    await stream.schedule({job_id: 5_000.0})
    await stream.schedule({})
    assert (await stream.lengths()).retry == 1
    assert await stream.promote(1_001.0) == 0


# -- dead letters


async def test_a_dead_letter_is_on_the_dlq_stream_once_however_often_it_is_told(
    stream: Stream, cluster: Cluster
) -> None:
    ids = some(250)
    letters = [Letter(job_id, "FAIL", f"why {n}") for n, job_id in enumerate(ids)]
    for _ in range(3):
        await stream.dead_letter(letters)
    await asyncio.gather(*(stream.dead_letter(letters[:50]) for _ in range(4)))
    with cluster.redis() as client:
        entries: Any = client.xrange(stream.dlq)
    assert [fields for _, fields in entries] == [
        {b"id": id_text(job_id).encode(), b"type": b"FAIL", b"error": f"why {n}".encode()}
        for n, job_id in enumerate(ids)
    ]
    assert sorted(await stream.dead_ids()) == sorted(id_text(job_id).encode() for job_id in ids)


async def test_an_exhumed_letter_is_gone_and_may_come_back(stream: Stream) -> None:
    ids = some(3)
    letters = [Letter(job_id, "FAIL", "why") for job_id in ids]
    await stream.dead_letter(letters)
    for _ in range(2):
        await stream.exhume([*ids[:2], new_id()])
    assert await stream.dead_ids() == [id_text(ids[2]).encode()]
    assert (await stream.lengths()).dlq == 1
    await stream.dead_letter(letters[:1])
    assert (await stream.lengths()).dlq == 2


# -- consumers


async def test_a_dead_consumers_entries_are_adopted_and_then_it_is_forgotten(stream: Stream) -> None:
    ids = some(120)
    await stream.publish(ids)
    await stream.read("dead", 120)
    assert not await stream.forget("dead"), "it holds entries that would be destroyed with it"
    assert [await stream.adopt("dead", "heir", 100) for _ in range(3)] == [100, 20, 0]
    assert await stream.consumers() == {"dead": 0, "heir": 120}
    assert await stream.forget("dead")
    assert await stream.consumers() == {"heir": 120}
    assert [delivery.job_id for delivery in await stream.own_pending("heir", 200)] == ids


async def test_forgetting_somebody_unknown_does_no_harm(stream: Stream) -> None:
    await stream.forget("nobody")
    assert await stream.consumers() == {}


# -- losing everything


async def test_after_flushall_a_reader_makes_the_group_again_and_reads_on(stream: Stream, cluster: Cluster) -> None:
    await stream.publish(some(3))
    await stream.read("a", 1)
    with cluster.redis() as client:
        client.flushall()
    assert await stream.read("a", 10) == []
    ids = some(2)
    await stream.publish(ids)
    assert [delivery.job_id for delivery in await stream.read("a", 10)] == ids


async def test_a_group_made_after_the_entries_skips_none_of_them(stream: Stream, cluster: Cluster) -> None:
    with cluster.redis() as client:
        client.delete(stream.stream)
    ids = some(2)
    await stream.publish(ids)
    for _ in range(2):
        await stream.ensure_group()
    assert [delivery.job_id for delivery in await stream.read("a", 10)] == ids


async def test_scripts_survive_a_server_that_has_forgotten_them(stream: Stream, cluster: Cluster) -> None:
    await stream.publish(some(1))
    with cluster.redis() as client:
        client.script_flush()
    await stream.publish(some(1))
    assert await lengths(stream) == (2, 0)


async def test_a_missing_group_is_unavailability_for_those_who_do_not_make_it(stream: Stream, cluster: Cluster) -> None:
    with cluster.redis() as client:
        client.flushall()
    for ask in (stream.trim(), stream.consumers()):
        with pytest.raises(StoreUnavailable, match="Redis is out of reach"):
            await ask


# -- what the reconciler asks


async def test_the_horizon_is_the_age_of_the_oldest_entry_that_nobody_has_read(stream: Stream) -> None:
    async def queued() -> float:
        look = await stream.look("me", 9.0)
        assert look.mine
        return look.seconds

    async def old() -> bool:
        return await queued() >= 0.3

    assert await queued() == 0
    await stream.publish(some(1))
    began = time.monotonic()
    await eventually(queued, every=0.001)
    await eventually(old, every=0.01)
    assert 0.25 <= time.monotonic() - began < 3
    await stream.read("a", 1)
    assert await queued() == 0, "pending is not queued"
    await stream.publish(some(1))
    assert 0.001 <= await queued() < 0.2


async def test_one_of_many_gets_the_turn_keeps_it_while_it_asks_and_loses_it_when_it_does_not(stream: Stream) -> None:
    looks = await asyncio.gather(*(stream.look(str(n), 0.4) for n in range(5)))
    [owner] = [n for n, look in enumerate(looks) if look.mine]
    assert all(0 < look.seconds <= 0.4 for n, look in enumerate(looks) if n != owner)
    for _ in range(4):
        await asyncio.sleep(0.15)
        assert (await stream.look(str(owner), 0.4)).mine
        assert not (await stream.look("another", 0.4)).mine

    async def another() -> bool:
        return (await stream.look("another", 0.4)).mine

    await eventually(another, within=2, of="the next turn")


async def test_whoever_looks_makes_a_group_that_is_missing_at_the_first_entry(stream: Stream, cluster: Cluster) -> None:
    with cluster.redis() as client:
        client.delete(stream.stream)
    ids = some(2)
    await stream.publish(ids)
    assert (await stream.look("me", 1.0)).mine
    assert [delivery.job_id for delivery in await stream.read("a", 10)] == ids


# -- links


async def test_a_silent_server_is_given_up_within_the_deadline() -> None:
    with silent_server() as port:
        silent = Stream(f"redis://127.0.0.1:{port}/0", stream="s", group="g", deadline_seconds=0.3, name="tests")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="Redis is out of reach"):
            await silent.publish(some(1))
        assert time.monotonic() - began < 1
        await silent.close()


async def test_a_link_that_goes_silent_ends_commands_and_reads_and_heals(cluster: Cluster) -> None:
    async with linked(cluster.redis_url) as (link, url):
        stream = Stream(url, stream=cluster.stream, group="g", deadline_seconds=0.3, name="tests")
        await stream.ensure_group()
        await stream.publish(some(1))
        await stream.read("a", 1)
        link.silence()
        began = time.monotonic()
        results = await asyncio.gather(stream.publish(some(1)), stream.read("a", 1), return_exceptions=True)
        assert [type(result) for result in results] == [StoreUnavailable] * 2
        assert time.monotonic() - began < 2.5
        link.heal()
        await stream.publish(some(1))
        assert await stream.read("a", 9)
        await stream.close()


async def test_connections_ended_by_the_server_are_replaced(stream: Stream, cluster: Cluster) -> None:
    await stream.publish(some(1))
    with cluster.redis() as client:
        client.client_kill_filter(_type="normal", skipme=True)

    async def published() -> bool:
        try:
            await stream.publish(some(1))
        except StoreUnavailable:
            return False
        return True

    await eventually(published, within=2)


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1", "redis://127.0.0.1:port/0"])
def test_a_url_that_is_none_is_a_configuration_error_that_names_the_variable(url: str) -> None:
    with pytest.raises(ConfigurationError, match="SCHEDULER_REDIS_URL"):
        Stream(url, stream="s", group="g", deadline_seconds=1, name="tests")


async def test_the_eviction_policy_is_asked_for(stream: Stream, cluster: Cluster) -> None:
    assert await stream.eviction_policy() == "noeviction"
    with cluster.redis() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            assert await stream.eviction_policy() == "allkeys-lru"
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def test_the_stream_and_its_retry_set_share_a_cluster_slot() -> None:
    assert key_slot(b"jobs_stream") == key_slot(b"{jobs_stream}:retry")
    assert key_slot(b"jobs_stream:dlq") == key_slot(b"{jobs_stream:dlq}:index")


# -- lanes and shares


@pytest.mark.parametrize("unit", [1, 10])  # by the script, and beyond MAX_IDS_BY_LUA
async def test_a_share_is_what_is_there_divided_by_the_consumers_and_least_is_taken_anyway(
    stream: Stream, unit: int
) -> None:
    for name in "abcd":
        await stream.own_pending(name, 1)
    await stream.publish(some(100 * unit))
    first = await stream.take("a", 90 * unit)
    assert (len(first.deliveries), first.waiting) == (25 * unit, 75 * unit)
    assert (await stream.take("a", 90 * unit)).deliveries == [], "its share is in hand"
    assert len((await stream.take("b", 10 * unit)).deliveries) == 10 * unit
    assert len((await stream.take("b", 90 * unit)).deliveries) == 15 * unit
    rest = await stream.take("a", 90 * unit, 60 * unit)
    assert (len(rest.deliveries), rest.waiting) == (50 * unit, 0), "what nobody takes is taken, whosever share it is"
    assert (await stream.take("c", 90 * unit)).waiting == 0
    held = await stream.consumers()
    assert held == {"a": 75 * unit, "b": 25 * unit, "c": 0, "d": 0}


async def test_a_lane_is_read_by_who_runs_its_type_counts_as_queued_and_needs_no_trimming(
    stream: Stream, cluster: Cluster
) -> None:
    ids = some(3)
    await stream.publish(ids)
    wrong = (await stream.take("wrong", 9)).deliveries
    for _ in range(2):
        await stream.forward("T", wrong)
    assert await stream.trim() == 3
    assert (await stream.look("me", 1)).seconds > 0, "else the reconciler would publish them once more"
    stream.types = frozenset({"T"})
    await stream.open_lanes()
    deliveries = await stream.read("right", 9)
    assert [delivery.job_id for delivery in deliveries] == ids
    assert await stream.consumers() == {"wrong": 0, "right": 3}
    assert await stream.adopt("right", "heir") == 3
    assert await stream.own_pending("heir", 9) == deliveries
    assert (await stream.look("me", 1)).seconds == 0
    await stream.ack([delivery.entry for delivery in deliveries])
    with cluster.redis() as client:
        assert client.xlen(f"{{{stream.stream}}}:lane:T") == 0
        client.delete(f"{{{stream.stream}}}:lane:T", f"{{{stream.stream}}}:lanes")
    assert await stream.own_pending("heir", 9) == [], "a lane that is gone is no trouble"
    assert stream.lanes == ()
