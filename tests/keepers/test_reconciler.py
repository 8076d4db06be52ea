"""Redis is made to agree with the record again: by one of many, quickly, both kinds of jobs, and every letter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis import Redis

from scheduler.facts.facts import DLQ_RECONCILED, Told, listen
from scheduler.jobs.job import id_text
from scheduler.keepers import reconciler
from scheduler.keepers.reconciler import Reconciler
from scheduler.storage import stream as streaming
from scheduler.storage.rows import Letter
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.cluster import Cluster, eventually
from tests.storage.factory import dead, new_id, submitted

FILL = """
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, run_at, reconcile_at)
SELECT gen_random_uuid(), 'NOOP', '{{}}', 4, now() - interval '1 minute', {}
FROM generate_series(1, {})"""
LOST, UNTOLD = "now() - interval '1 minute'", "'-infinity'"


@asynccontextmanager
async def reconciling(store: Store, stream: Stream, count: int = 1) -> AsyncIterator[None]:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(Reconciler(store, stream).run(stop))
        try:
            yield
        finally:
            stop.set()


async def test_all_that_redis_lost_is_published_once_without_waiting_for_a_turn(store: Store, stream: Stream) -> None:
    await store.postgres.fetch(FILL.format(LOST, 12 * reconciler.BATCH // 5))
    async with reconciling(store, stream, 2):

        async def all_published() -> bool:
            return await stream.length() >= 12_000

        await eventually(all_published, within=20, every=0.02)
    assert await stream.length() == 12_000


async def test_a_flow_of_untold_jobs_does_not_keep_lost_ones_waiting(store: Store) -> None:
    [lost] = await submitted(store)
    await store.postgres.fetch(f"UPDATE scheduler.jobs SET reconcile_at = {LOST}")
    await store.postgres.fetch(FILL.format(UNTOLD, 50))
    found = [job.id for job in await store.overlooked(0.0, 10)]
    assert lost in found
    assert len(found) == 11, "as many of either kind"


async def test_a_job_is_told_to_redis_a_minute_before_it_is_due_and_no_earlier(store: Store, stream: Stream) -> None:
    [near], [far], [tomorrow] = [await submitted(store, delay_seconds=wait) for wait in (50.0, 63.0, 86_400.0)]
    async with reconciling(store, stream):

        async def told() -> list[bytes]:
            ids: Any = await stream._redis.zrange(stream.retry, 0, -1)
            return list(ids)

        await eventually(told, until=lambda ids: ids == [near], of="the job that is due soon")
        await eventually(told, within=15, until=lambda ids: ids == [near, far], of="the job that has become so")
    waits = (
        "SELECT round(extract(epoch FROM run_at - reconcile_at)) FROM scheduler.jobs WHERE reconcile_at > now() + '2 m'"
    )
    assert await store.postgres.fetch(waits) == [(60,)]
    assert tomorrow not in await told()


# -- dead letters


async def shown(stream: Stream) -> list[str]:
    entries: Any = await stream._redis.xrange(stream.dlq)
    return [fields[b"id"].decode() for _, fields in entries]


def trimmed(client: Redis, dlq: str) -> None:
    client.xtrim(dlq, maxlen=1, approximate=False)


def one_deleted(client: Redis, dlq: str) -> None:
    entries: Any = client.xrange(dlq)
    client.xdel(dlq, entries[1][0])


def deleted(client: Redis, dlq: str) -> None:
    client.delete(dlq)


def index_deleted(client: Redis, dlq: str) -> None:
    client.delete(f"{{{dlq}}}:index")


def digest_deleted(client: Redis, dlq: str) -> None:
    client.delete(f"{{{dlq}}}:digest")


def one_exchanged(client: Redis, dlq: str) -> None:
    one_deleted(client, dlq)
    client.xadd(dlq, {"id": "forged"})


DAMAGES = [trimmed, one_deleted, deleted, index_deleted, digest_deleted, one_exchanged]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_dlq_stream_is_made_whole_after(
    damage: Callable[[Redis, str], None], store: Store, stream: Stream, cluster: Cluster
) -> None:
    ids = [id_text(await dead(store)) for _ in range(3)]
    await repaired(store, stream)
    assert sorted(await shown(stream)) == ids
    with cluster.redis() as client:
        damage(client, stream.dlq)
    assert await repaired(store, stream) == 1
    assert sorted(await shown(stream)) == ids
    assert await repaired(store, stream) == 0, "once, not for ever"


async def test_an_older_snapshot_of_the_dlq_stream_of_equal_size_is_noticed(store: Store, stream: Stream) -> None:
    gone, kept = new_id(), await dead(store)
    await stream.dead_letter([Letter(gone, "FAIL", "redriven since")])
    assert await stream.dead_digest() != await store.dead_digest(9)
    assert await repaired(store, stream) == 1
    assert await shown(stream) == [id_text(kept)]


async def test_the_dlq_stream_shows_the_newest_letters_only_and_what_leaves_makes_room(
    store: Store, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (streaming, reconciler):
        monkeypatch.setattr(module, "MAX_LETTERS", 3)
    ids = [await dead(store) for _ in range(5)]
    texts = [id_text(job_id) for job_id in ids]
    await stream.dead_letter([Letter(job_id, "FAIL", "x" * 4_000) for job_id in reversed(ids)])
    assert sorted(await shown(stream)) == texts[2:]
    entries: Any = await stream._redis.xrange(stream.dlq)
    fields = entries[0][1]
    assert fields[b"error"] == b"x" * 200
    assert await repaired(store, stream) == 0
    await store.redrive([ids[4]], 0.0)
    await stream.exhume([ids[4]])
    assert await repaired(store, stream) == 1
    assert sorted(await shown(stream)) == texts[1:4]
    assert await repaired(store, stream) == 0


async def repaired(store: Store, stream: Stream) -> int:
    """How often the DLQ stream was made equal to the record in three looks."""
    told: list[Told] = []
    end = listen(DLQ_RECONCILED, told.append)
    looker = Reconciler(store, stream)
    for _ in range(3):
        await looker._reconcile_dlq()
    end()
    return len(told)
