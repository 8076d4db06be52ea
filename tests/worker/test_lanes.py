"""Workers of different types on one stream: a wrong one neither claims, delays nor buries what it cannot run."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import pytest
from redis.exceptions import ResponseError

from scheduler import SchedulerError
from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]
GREET: dict[str, Any] = {"type": "GREET", "payload": {"name": "x"}}
REST: dict[str, Any] = {"type": "REST", "payload": {"seconds": 0.5}}


def statuses(cluster: Cluster, type: str) -> dict[str, int]:
    return dict(cluster.rows("SELECT status, count(*) FROM scheduler.jobs WHERE type = %s GROUP BY 1", type))


def lanes(cluster: Cluster) -> dict[str, int]:
    """Lane -> how many consumers read it. One may go between two looks."""
    own = f"{{{cluster.stream}}}:lane"
    found = dict[str, int]()
    with cluster.redis() as redis:
        members: Any = redis.smembers(f"{own}s")
        for name in (member.decode() for member in members):
            with suppress(ResponseError):
                [group] = redis.xinfo_groups(f"{own}:{name}")
                found[name] = int(group["consumers"])
    return found


async def test_a_backlog_of_the_only_right_worker_is_not_buried_by_wrong_ones(cluster: Cluster) -> None:
    cluster.settings |= {"unhandled_seconds": 1.5}
    await cluster.api(jobs="worker.lane_jobs")
    await cluster.worker(jobs="worker.lane_jobs", concurrency=1)
    for _ in range(2):
        await cluster.worker()
    async with cluster.client() as client:
        await client.submit_batch([REST] * 8)
        await eventually(lambda: statuses(cluster, "REST") == {"COMPLETED": 8}, within=30)
    assert cluster.rows("SELECT DISTINCT attempt, fence FROM scheduler.jobs") == [(1, 1)], "nobody else claimed one"
    await cluster.drained()


async def test_one_right_worker_of_four_gets_each_job_at_once_and_other_types_do_not_delay_it(cluster: Cluster) -> None:
    await cluster.api(jobs="worker.lane_jobs,user_jobs")
    for _ in range(2):
        await cluster.worker()
    await cluster.worker(jobs="user_jobs")
    busy = await cluster.worker(jobs="worker.lane_jobs", concurrency=2)
    await eventually(lambda: lanes(cluster).items() >= {"GREET": 1, "REST": 1, "SNOOZER": 1}.items(), within=20)
    async with cluster.client() as client:

        async def greet_twenty() -> list[float]:
            took = []
            for _ in range(20):
                began = time.monotonic()
                job = await client.submit(**GREET)
                assert (await client.get(job["id"], wait=20))["status"] == "COMPLETED"
                took.append(time.monotonic() - began)
            return took

        assert max(await greet_twenty()) < 0.9
        await client.submit_batch([REST] * 500)
        assert max(await greet_twenty()) < 0.9, "with 500 jobs of a type that only another worker has before them"
    assert statuses(cluster, "REST")["PENDING"] > 100
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs WHERE status = 'PENDING' AND fence > 0") == [(0,)]
    assert busy.poll() is None


async def test_lanes_go_with_the_last_worker_that_reads_them_and_their_jobs_come_back(cluster: Cluster) -> None:
    cluster.settings |= {"lease_seconds": 1, "samples": False}  # there is a BLOCK among them
    await cluster.api()
    right = await cluster.worker(jobs="user_jobs", concurrency=1)
    await cluster.worker()
    await eventually(lambda: lanes(cluster).get("BLOCK") == 1, within=20)
    async with cluster.client() as client:
        await client.submit_batch([{"type": "BLOCK", "payload": {"seconds": 0.3}}] * 10)
        await eventually(lambda: statuses(cluster, "BLOCK").get("COMPLETED", 0) > 1)
        right.kill()
        await eventually(lambda: lanes(cluster) == {}, within=20, of="no lane that nobody reads")
        await client.submit("BLOCK", {"seconds": 0}, max_attempts=9)
        with pytest.raises(SchedulerError, match="NEVER"):
            await client.submit("NEVER", {})
        await cluster.worker(jobs="user_jobs")
        await eventually(lambda: statuses(cluster, "BLOCK") == {"COMPLETED": 11}, within=20)


async def test_a_type_is_buried_when_nobody_has_listed_it_for_the_limit_since_its_refusal(
    cluster: Cluster,
) -> None:
    cluster.settings |= {"unhandled_seconds": 3}
    await cluster.api(jobs="user_jobs")
    await cluster.worker()
    refused = "SELECT refused_at IS NOT NULL FROM scheduler.types WHERE name = 'GREET'"
    async with cluster.client() as client:
        first = await client.submit(**GREET)
        await eventually(lambda: cluster.rows(refused) == [(True,)])
        passing = await cluster.worker(jobs="user_jobs")
        assert (await client.get(first["id"], wait=20))["status"] == "COMPLETED"
        passing.terminate()
        await eventually(lambda: passing.poll() is not None)
        assert cluster.rows(refused) == [(False,)], "the clock starts anew"
        second = await client.submit(**GREET)
        final = await client.get(second["id"], wait=20)
        assert (final["status"], final["attempt"]) == ("FAILED", 1)
        assert "no worker has a handler for type 'GREET'" in final["error"]
        [[waited]] = cluster.rows(
            "SELECT extract(epoch FROM finished_at - run_at)::float8 FROM scheduler.jobs WHERE id = %s", second["id"]
        )
        assert waited >= 3
        await cluster.drained()
