"""What others put into Redis under our names is dropped or put aside, said by name, and stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.exceptions import ResponseError

from chaos.targets.ours.garbage import kinds
from scheduler.api.parts import Readiness
from scheduler.facts.facts import KEY_UNUSABLE, MALFORMED, Told, listen
from scheduler.jobs.job import id_text
from scheduler.keepers.reconciler import Reconciler
from scheduler.storage.rows import Letter
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.cluster import Cluster, eventually
from tests.storage.factory import alter, dead, live_worker, new_id, running, submitted

pytestmark = pytest.mark.asyncio
NO_ID = b"abc"
NAMES = list(kinds("any", "workers"))


def put(cluster: Cluster, kind: str) -> None:
    with cluster.redis() as client:
        for words in kinds(cluster.stream, "workers")[kind]:
            client.execute_command(*words)


def was_put(cluster: Cluster, kind: str) -> bool:
    """Whether it could be: not on a key that another kind has spoilt, until that is put aside."""
    try:
        put(cluster, kind)
    except ResponseError:
        return False
    return True


@pytest.fixture
def malformed() -> Iterator[list[Told]]:
    told: list[Told] = []
    end = listen(MALFORMED, told.append)
    yield told
    end()


# -- the edges


async def test_a_delivery_that_brings_no_id_can_only_be_acknowledged_and_is_counted(
    stream: Stream, cluster: Cluster, malformed: list[Told]
) -> None:
    job_id = new_id()
    for kind in ("entry-other-field", "entry-short-id", "entry-text-id", "entry-large-id", "entry-raw-bytes"):
        put(cluster, kind)
    await stream.publish([job_id])
    found = (await stream.take("a", 10)).deliveries
    assert [each.job_id for each in found] == [b""] * 5 + [job_id]
    assert sum(told.amount for told in malformed) == 5
    assert malformed[0].fields == {"key": stream.stream, "value": "b'bar'"}
    await stream.ack([each.entry for each in found])
    assert (await stream.lengths()).pending == 0


async def test_a_short_id_does_not_shift_those_that_are_published_with_it(
    stream: Stream, malformed: list[Told]
) -> None:
    one, other = new_id(), new_id()
    await stream.publish([one, NO_ID, other, b"", one + other])
    assert [each.job_id for each in await stream.read("a", 10)] == [one, other]
    assert await stream.schedule({NO_ID: 1.0, one: 2.0}) == 1
    assert sum(told.amount for told in malformed) == 4


async def test_what_waits_for_its_time_and_is_no_id_is_removed_when_it_is_due(
    stream: Stream, cluster: Cluster, malformed: list[Told]
) -> None:
    job_id = new_id()
    await stream.schedule({job_id: 5.0})
    for kind in ("retry-short-id", "retry-text-id", "retry-large-id"):
        put(cluster, kind)
    assert await stream.promote(9.0) == 4
    assert [each.job_id for each in await stream.read("a", 10)] == [job_id]
    assert [told.amount for told in malformed] == [3]
    put(cluster, "retry-never-due")
    assert await stream.flaws(mend=True) == {}
    assert (await stream.lengths()).retry == 0
    assert sum(told.amount for told in malformed) == 4


async def test_lanes_and_consumers_may_have_any_name(stream: Stream, cluster: Cluster) -> None:
    for kind in ("lanes-raw-bytes", "lanes-unknown", "consumer-raw-bytes"):
        put(cluster, kind)
    await stream.open_lanes()
    assert "NO SUCH TYPE" in stream.lanes
    await stream.consumers()
    await stream.open_lanes([])
    assert [*stream.lanes] == []
    [stranger] = await stream.consumers()
    assert await stream.adopt(stranger, "heir") == 0
    assert await stream.forget(stranger)
    assert await stream.consumers() == {}


async def test_trimming_passes_the_last_sequence_number_of_a_millisecond(stream: Stream, cluster: Cluster) -> None:
    with cluster.redis() as client:
        client.xadd(stream.stream, {"id": NO_ID}, id="5-18446744073709551615")
    await stream.ack([each.entry for each in await stream.read("a", 1)])
    await stream.trim()
    assert await stream.length() == 0


@pytest.mark.parametrize("kind", ["dlq-index", "dlq-digest"])
async def test_letters_can_be_put_and_taken_whatever_their_index_holds(
    stream: Stream, cluster: Cluster, kind: str
) -> None:
    letter = Letter(new_id(), "NOOP", "boom")
    put(cluster, kind)
    await stream.dead_letter([letter])
    assert id_text(letter.id).encode() in await stream.dead_ids()
    await stream.exhume([letter.id])
    assert id_text(letter.id).encode() not in await stream.dead_ids()


# -- keys


@asynccontextmanager
async def reconciling(store: Store, stream: Stream) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(Reconciler(store, stream).run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


HARMLESS = [name for name in NAMES if "wrong-type" not in name and not name.endswith(("used-up", "ahead"))]
SPOILT = [name for name in NAMES if name not in HARMLESS]


@pytest.mark.parametrize("kind", SPOILT)
async def test_a_key_that_cannot_be_used_is_named_and_put_aside_with_what_it_holds(
    stream: Stream, cluster: Cluster, kind: str
) -> None:
    put(cluster, kind)
    if kind == "lane-of-wrong-type":
        await stream.open_lanes()
    [(key, flaw)] = (await stream.flaws()).items()
    assert key.startswith((stream.stream, f"{{{stream.stream}"))
    assert await stream.flaws(mend=True) == {key: f"{flaw}; it is now {_aside(key)}, for a day"}
    assert await stream.flaws() == {}
    with cluster.redis() as client:
        assert client.exists(_aside(key), key) == 1
        assert 0 < client.ttl(_aside(key)) <= 86_400


def _aside(key: str) -> str:
    return f"{key}:aside" if key.startswith("{") else f"{{{key}}}:aside"


async def test_a_sound_key_is_left_alone_by_who_would_mend_it(stream: Stream) -> None:
    ids = [new_id() for _ in range(3)]
    await stream.publish(ids)
    await stream.schedule({ids[0]: 1e15})
    await stream.dead_letter([Letter(ids[0], "NOOP", "boom")])
    await stream.read("a", 2)
    before = await stream.lengths()
    assert await stream.flaws(mend=True) == {}
    assert await stream.lengths() == before


@pytest.mark.parametrize("kind", ["turn-for-ever", "turn-for-a-year", "turn-of-wrong-type"])
async def test_a_turn_that_nobody_took_is_taken(store: Store, stream: Stream, cluster: Cluster, kind: str) -> None:
    put(cluster, kind)
    job_ids = await submitted(store)
    await alter(store, "jobs SET reconcile_at = '-infinity' WHERE id", job_ids[0])
    async with reconciling(store, stream):
        await eventually(stream.length, within=20, until=lambda found: found == 1)


async def test_the_reconciler_says_once_what_it_put_aside_and_publishes_anew(
    store: Store, stream: Stream, cluster: Cluster
) -> None:
    told: list[Told] = []
    end = listen(KEY_UNUSABLE, told.append)
    job_ids = await submitted(store)
    await alter(store, "jobs SET reconcile_at = '-infinity' WHERE id", job_ids[0])
    put(cluster, "stream-of-wrong-type")

    async def delivered() -> list[bytes]:
        with cluster.redis() as client:
            found: Any = client.xrange(stream.stream) if client.type(stream.stream) == b"stream" else []
            return [fields[b"id"] for _, fields in found]

    async with reconciling(store, stream):
        assert await eventually(delivered, within=20) == job_ids
    end()
    assert [each.fields["key"] for each in told] == [stream.stream]
    assert "it is a string, and a stream is needed; it is now" in str(told[0].fields["reason"])


@pytest.mark.parametrize("kind", ["dlq-index", "dlq-digest", "dlq-entry", "dlq-of-wrong-type", "dlq-ids-used-up"])
async def test_the_letters_are_made_exact_again_whatever_others_did(
    store: Store, stream: Stream, cluster: Cluster, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.keepers.reconciler.DLQ_PERIOD_SECONDS", 0.2)
    buried = await dead(store)
    await stream.dead_letter([Letter(buried, "NOOP", "boom")])
    put(cluster, kind)

    async def is_exact() -> bool:
        if (await stream.flaws()) or await stream.dead_digest() != await store.dead_digest(100):
            return False
        return await stream.dead_ids() == [id_text(buried).encode()]

    async with reconciling(store, stream):
        await eventually(is_exact, within=20)


# -- who says it


async def test_readyz_names_the_key_that_a_job_needs_and_cannot_use(
    store: Store, stream: Stream, cluster: Cluster
) -> None:
    assert await Readiness(store, stream, ()).answer() == dict.fromkeys(("postgres", "redis", "loops", "jobs"), "ok")
    put(cluster, "retry-of-wrong-type")
    answer = await Readiness(store, stream, ()).answer()
    assert answer["redis"] == f"{stream.retry}: it is a string, and a zset is needed"


async def test_readyz_names_the_keys_and_commands_that_its_user_has_no_right_to(
    store: Store, stream: Stream, cluster: Cluster
) -> None:
    user, keys = f"u{cluster.stream}", (f"~{stream.stream}", f"~{{{stream.stream}*", f"~{stream.dlq}*")
    with cluster.redis() as client:
        client.execute_command("ACL", "SETUSER", user, "on", ">secret", "+@all", "-sadd", *keys)
    url = urlsplit(cluster.redis_url)
    own = url._replace(netloc=f"{user}:secret@{url.hostname}:{url.port}").geturl()
    limited = Stream(own, stream=stream.stream, group="workers", deadline_seconds=5, name="limited")
    try:
        answer = await Readiness(store, limited, ()).answer()
        assert answer["redis"] == f"{{{stream.stream}}}:lanes: no right to SADD"
        with cluster.redis() as client:
            client.execute_command(
                "ACL", "SETUSER", user, "resetkeys", "+sadd", f"~{stream.stream}", f"~{{{stream.stream}}}*"
            )
        flawed = await limited.flaws(mend=True)
        assert flawed.keys() == {stream.dlq, *stream._dlq_keys}
        assert all("No permissions" in flaw for flaw in flawed.values())
    finally:
        await limited.close()
        with cluster.redis() as client:
            client.execute_command("ACL", "DELUSER", user)


async def test_due_jobs_that_only_grow_older_beside_a_worker_that_could_run_them_are_no_readiness(
    store: Store, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.api.parts.FRESH_SECONDS", 0.0)
    readiness = Readiness(store, stream, ())

    async def jobs() -> str:
        return (await readiness.answer())["jobs"]

    [job_id] = await submitted(store)
    await alter(store, "jobs SET run_at = now() - interval '1 minute' WHERE id", job_id)
    assert [await jobs() for _ in range(3)] == ["ok"] * 3, "nobody lives who could run it"
    await live_worker(store, types=["OTHER"])
    assert [await jobs() for _ in range(3)] == ["ok"] * 3
    worker = await live_worker(store)
    assert await jobs() == "ok", "it may be about to begin"
    assert "have waited for 60 s and none runs" in await jobs()
    await running(store, worker)
    assert await jobs() == "ok", "the workers are busy"


# -- the whole


@pytest.mark.e2e
async def test_no_kind_of_garbage_stops_any_of_three_workers(cluster: Cluster) -> None:
    assert len(NAMES) >= 30
    await cluster.api()
    workers = [await cluster.worker(concurrency=4) for _ in range(3)]
    async with cluster.client() as client:
        for names in (HARMLESS[::2], HARMLESS[1::2], *([name] for name in SPOILT)):
            for name in names:
                await eventually(partial(was_put, cluster, name), within=30, of=name)
            jobs = [await client.submit("NOOP", {}) for _ in range(3)]
            for job in jobs:
                assert (await client.get(job["id"], wait=30))["status"] == "COMPLETED", names
    await cluster.drained()
    assert [worker.poll() for worker in workers] == [None] * 3
    assert "tick_failed" not in cluster.log()
