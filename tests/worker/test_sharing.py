"""Work is shared by those who can do it: a batch among idle workers, what one holds without a slot, and suspects."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]
SECOND: dict[str, Any] = {"type": "SLEEP", "payload": {"seconds": 1}}


def held(cluster: Cluster) -> list[int]:
    """How many jobs each worker has been the last to claim, the most first."""
    query = "SELECT count(*) FROM scheduler.jobs WHERE type = 'SLEEP' AND worker_id IS NOT NULL GROUP BY worker_id"
    return sorted((amount for (amount,) in cluster.rows(query)), reverse=True)


def finished(cluster: Cluster) -> int:
    return int(cluster.rows("SELECT count(*) FROM scheduler.jobs WHERE finished_at IS NOT NULL")[0][0])


def readers(cluster: Cluster) -> int:
    """How many workers have read the stream: a share is for those alone."""
    with cluster.redis() as client:
        return int(client.xinfo_groups(cluster.stream)[0]["consumers"])


async def test_a_batch_is_shared_by_idle_workers_and_one_alone_takes_it_all(cluster: Cluster) -> None:
    await cluster.api()
    await cluster.worker()
    async with cluster.client() as client:
        await client.submit_batch([SECOND] * 100)
        began = time.monotonic()
        await eventually(lambda: finished(cluster) == 100, within=20)
        assert time.monotonic() - began < 5, "no job waits while the only worker has room"
        for _ in range(3):
            await cluster.worker()
        await eventually(lambda: readers(cluster) == 4)
        cluster.rows("DELETE FROM scheduler.jobs RETURNING id")
        await client.submit_batch([SECOND] * 100)
        await eventually(lambda: finished(cluster) == 100, within=20)
    assert all(19 <= amount <= 31 for amount in held(cluster)), held(cluster)
    assert cluster.rows("SELECT DISTINCT attempt FROM scheduler.jobs") == [(1,)]


async def test_after_a_burst_a_worker_hoards_nothing_that_another_could_run(cluster: Cluster) -> None:
    await cluster.api()
    await cluster.worker(concurrency=10)
    async with cluster.client() as client:
        await client.submit_batch([{"type": "NOOP", "payload": {}}] * 8_000 + [SECOND] * 60)
        await eventually(lambda: finished(cluster) >= 8_000, every=0.01)
        await cluster.worker(concurrency=10)
        await eventually(lambda: finished(cluster) == 8_060, within=30)
    most, least = held(cluster)
    assert least >= 15, (most, least)
    assert cluster.rows("SELECT DISTINCT attempt FROM scheduler.jobs WHERE type = 'SLEEP'") == [(1,)]


async def test_suspects_run_in_company_and_are_not_churned(cluster: Cluster) -> None:
    await cluster.api()
    async with cluster.client() as client:
        await client.submit_batch([SECOND] * 100)
        cluster.rows("UPDATE scheduler.jobs SET crashes = 2 RETURNING id")
        await cluster.worker()
        began = time.monotonic()
        await eventually(lambda: finished(cluster) == 100, within=40)
        assert time.monotonic() - began < 20
    updates = "SELECT n_tup_upd::int FROM pg_stat_user_tables WHERE relname = 'jobs'"
    await eventually(lambda: cluster.rows(updates)[0][0] >= 300)
    assert cluster.rows(updates)[0][0] < 1_100


async def test_a_job_that_runs_for_long_holds_no_entry_and_the_stream_is_trimmed_behind_it(cluster: Cluster) -> None:
    cluster.settings |= {"lease_seconds": 1}
    await cluster.api()
    first = await cluster.worker()
    async with cluster.client() as client:
        job = await client.submit("SLEEP", {"seconds": 7})
        await eventually(lambda: cluster.rows("SELECT status FROM scheduler.jobs") == [("PROCESSING",)])
        await client.submit_batch([{"type": "NOOP", "payload": {}}] * 500)
        await eventually(lambda: cluster.redis_lengths()["stream"] == 0, within=10)
        assert cluster.rows("SELECT status FROM scheduler.jobs WHERE type = 'SLEEP'") == [("PROCESSING",)]
        await cluster.worker()
        first.kill()
        final = await client.get(job["id"], wait=30)
        assert (final["status"], final["attempt"]) == ("COMPLETED", 2), "the lease covers it, and the rescuer acts"
    await cluster.drained()
