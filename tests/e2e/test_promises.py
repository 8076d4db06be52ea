"""Each promise of the design, attacked once with real processes and real signals."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from scheduler import Client
from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio]
LEASE = 2.0


async def _until_running(cluster: Cluster, job_id: str) -> None:
    query = "SELECT status FROM scheduler.jobs WHERE id = %s"
    await eventually(lambda: cluster.rows(query, job_id)[0][0] == "PROCESSING", of=f"{job_id} running")


async def _drained(cluster: Cluster, within: float = 60.0) -> None:
    await eventually(lambda: cluster.unfinished() == 0, within=within, every=0.2, of="no unfinished job")


async def _redis_empty(cluster: Cluster) -> None:
    def empty() -> bool:
        lengths = cluster.redis_lengths()
        return not (lengths["stream"] or lengths["pending"] or lengths["retry"])

    await eventually(empty, within=5, of="an empty stream, PEL and ZSET")


def _statuses(cluster: Cluster) -> dict[str, int]:
    return dict(cluster.rows("SELECT status, count(*) FROM scheduler.jobs GROUP BY status"))


@pytest.mark.chaos
async def test_a_killed_workers_job_restarts_elsewhere_within_lease_plus_one_second(cluster: Cluster) -> None:
    cluster.settings["LEASE_SECONDS"] = str(LEASE)
    async with Client(await cluster.api()) as client:
        first = await cluster.worker()
        job = await client.submit("SLEEP", {"seconds": 8})
        await _until_running(cluster, job["id"])
        await cluster.worker()
        await asyncio.sleep(LEASE)  # the rescuer must have held its own lease for one lease first
        first.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        query = "SELECT attempt FROM scheduler.jobs WHERE id = %s"
        await eventually(lambda: cluster.rows(query, job["id"])[0][0] == 2, within=LEASE + 1, of="the second attempt")
        assert time.monotonic() - killed <= LEASE + 1
        final = await client.get(job["id"], wait=30)
        assert (final["status"], final["attempt"]) == ("COMPLETED", 2)
        assert "worker died" in final["attempts"][0]["error"]
        await _redis_empty(cluster)


@pytest.mark.chaos
async def test_a_paused_worker_cannot_settle_what_another_has_finished(cluster: Cluster) -> None:
    cluster.settings["LEASE_SECONDS"] = str(LEASE)
    async with Client(await cluster.api()) as client:
        zombie = await cluster.worker()
        job = await client.submit("SLEEP", {"seconds": 1})
        await _until_running(cluster, job["id"])
        zombie.send_signal(signal.SIGSTOP)
        await cluster.worker()
        final = await client.get(job["id"], wait=30)
        assert (final["status"], final["attempt"]) == ("COMPLETED", 2)
        zombie.send_signal(signal.SIGCONT)
        await eventually(lambda: "lease_lost" in cluster.log(), of="the refused settle")
        assert (await client.get(job["id"]))["finished_at"] == final["finished_at"]


@pytest.mark.chaos
async def test_ten_thousand_jobs_and_their_retries_survive_flushall(cluster: Cluster) -> None:
    cluster.settings["BACKOFF_BASE_SECONDS"] = "0.5"
    async with Client(await cluster.api()) as client:
        mix = [{"type": "NOOP", "payload": {}}] * 9_800 + [{"type": "FLAKY", "payload": {"failures": 1}}] * 200
        ids = await client.submit_batch(mix[:5_000]) + await client.submit_batch(mix[5_000:])
        worker = await cluster.worker(concurrency=20)
        await eventually(lambda: cluster.redis_lengths()["retry"] > 0 or cluster.unfinished() < 5_000, every=0.005)
        with cluster.redis() as redis:
            redis.flushall()
        await _drained(cluster)
        assert _statuses(cluster) == {"COMPLETED": len(ids)}
        assert worker.poll() is None
        await _redis_empty(cluster)


@pytest.mark.chaos
async def test_jobs_submitted_with_no_worker_survive_flushall(cluster: Cluster) -> None:
    async with Client(await cluster.api()) as client:
        await client.submit_batch([{"type": "NOOP", "payload": {}}] * 10_000)
        await client.submit_batch([{"type": "NOOP", "payload": {}, "delay_seconds": 1}] * 500)
        with cluster.redis() as redis:
            redis.flushall()
        await cluster.worker()
        await _drained(cluster)
        assert _statuses(cluster) == {"COMPLETED": 10_500}
        await _redis_empty(cluster)


async def test_retries_come_at_base_twice_and_four_times_base_and_never_early(cluster: Cluster) -> None:
    cluster.settings["BACKOFF_BASE_SECONDS"] = "0.5"
    async with Client(await cluster.api()) as client:
        await cluster.worker()
        job = await client.submit("FAIL", {})
        final = await client.get(job["id"], wait=30)
        gaps = cluster.rows(
            "SELECT extract(epoch FROM started_at - lag(finished_at) OVER (ORDER BY fence))::float8"
            " FROM scheduler.attempts WHERE job_id = %s ORDER BY fence",
            job["id"],
        )
        waits = [gap[0] for gap in gaps][1:]
        assert (final["status"], final["attempt"]) == ("FAILED", 4)
        for wait, due in zip(waits, (0.5, 1.0, 2.0), strict=True):
            assert due <= wait < due + 1.0


async def test_a_spent_job_is_in_the_dlq_exactly_once_and_nothing_else_is(cluster: Cluster) -> None:
    cluster.settings["BACKOFF_BASE_SECONDS"] = "0.1"
    async with Client(await cluster.api()) as client:
        await cluster.worker()
        failing = [await client.submit("FAIL", {}, max_attempts=2) for _ in range(5)]
        await client.submit_batch([{"type": "NOOP", "payload": {}}] * 50)
        await _drained(cluster)
        spent = {job["id"] for job in failing}
        assert {job["id"] for job in (await client.dead_letters())["jobs"]} == spent
        with cluster.redis() as redis:
            await eventually(lambda: redis.xlen(f"{cluster.stream}:dlq") == 5)
            entries: Any = redis.xrange(f"{cluster.stream}:dlq")
        assert sorted(fields[b"id"].decode() for _, fields in entries) == sorted(spent)


@pytest.mark.chaos
async def test_a_poison_job_ends_in_the_dlq_after_max_attempts_and_lets_others_through(cluster: Cluster) -> None:
    cluster.settings["LEASE_SECONDS"] = "1"
    async with Client(await cluster.api()) as client:
        for _ in range(3):
            await cluster.worker()
        await asyncio.sleep(1)
        poison = await client.submit("CRASH", {}, max_attempts=2)
        final = await client.get(poison["id"], wait=30)
        assert (final["status"], final["attempt"]) == ("FAILED", 2)
        assert [attempt["status"] for attempt in final["attempts"]] == ["FAILED", "FAILED"]
        await eventually(
            lambda: f"job_failed job_id={poison['id']} type=CRASH" in cluster.log(), of="its end in the log"
        )
        after = await client.submit("NOOP", {})
        assert (await client.get(after["id"], wait=20))["status"] == "COMPLETED"
        assert [job["id"] for job in (await client.dead_letters())["jobs"]] == [poison["id"]]


@pytest.mark.chaos
async def test_a_poison_job_does_not_take_its_neighbours_to_the_dlq(cluster: Cluster) -> None:
    cluster.settings["LEASE_SECONDS"] = "1"
    async with Client(await cluster.api()) as client:
        batch = [{"type": "SLEEP", "payload": {"seconds": 2}}] * 30 + [{"type": "CRASH", "payload": {}}]
        ids = await client.submit_batch(batch)
        for _ in range(5):
            cluster.start("worker")  # and wait for none: the poison may kill it before it is seen
        await _drained(cluster)
        assert [job["id"] for job in (await client.dead_letters())["jobs"]] == ids[-1:]
        assert _statuses(cluster) == {"COMPLETED": 30, "FAILED": 1}
        await _redis_empty(cluster)


async def test_a_job_of_three_leases_on_a_live_worker_runs_once_also_when_it_blocks_the_loop(cluster: Cluster) -> None:
    cluster.settings |= {"LEASE_SECONDS": "1", "JOBS": "user_jobs"}
    async with Client(await cluster.api()) as client:
        await cluster.worker()
        await cluster.worker()
        jobs = [await client.submit(kind, {"seconds": 3}) for kind in ("SLEEP", "SPIN", "BLOCK")]
        finals = [await client.get(job["id"], wait=30) for job in jobs]
        assert [(job["status"], job["attempt"]) for job in finals] == [("COMPLETED", 1)] * 3


async def test_sigterm_under_load_loses_nothing_and_burns_no_attempt(cluster: Cluster) -> None:
    cluster.settings |= {"GRACE_SECONDS": "0.5", "CONCURRENCY": "10"}
    async with Client(await cluster.api()) as client:
        first = await cluster.worker()
        batch = [{"type": "SLEEP", "payload": {"seconds": 2.0 if n % 2 else 0.05}} for n in range(60)]
        await client.submit_batch(batch)
        await eventually(lambda: cluster.unfinished() < 55)
        await cluster.worker()
        first.terminate()
        assert await asyncio.to_thread(first.wait, 15) == 0
        await _drained(cluster)
        assert cluster.rows("SELECT DISTINCT status, attempt FROM scheduler.jobs") == [("COMPLETED", 1)]
        assert cluster.rows("SELECT count(*) FROM scheduler.attempts") == [(0,)]
        await _redis_empty(cluster)


@pytest.mark.chaos
async def test_the_api_killed_between_commit_and_publish_loses_no_job(cluster: Cluster) -> None:
    async with Client(await cluster.api()) as client:
        await client.submit_batch([{"type": "NOOP", "payload": {}}] * 2_000)
    cluster.processes[0].kill()
    with cluster.redis() as redis:
        redis.delete(cluster.stream)
    await cluster.worker()
    await _drained(cluster)
    assert _statuses(cluster) == {"COMPLETED": 2_000}


async def test_a_cancelled_running_job_is_told_and_its_late_result_refused(cluster: Cluster) -> None:
    cluster.settings["LEASE_SECONDS"] = "1"
    async with Client(await cluster.api()) as client:
        await cluster.worker()
        job = await client.submit("SLEEP", {"seconds": 30})
        await _until_running(cluster, job["id"])
        assert (await client.cancel(job["id"]))["status"] == "CANCELLED"
        await eventually(lambda: cluster.redis_lengths()["pending"] == 0, within=5, of="the acknowledged late result")
        assert (await client.get(job["id"]))["status"] == "CANCELLED"
        assert "lease_lost" not in cluster.log(), "who cancels takes the lease from nobody"


async def test_a_type_that_no_worker_knows_is_dead_lettered_in_time_and_says_so(cluster: Cluster) -> None:
    async with Client(await cluster.api(jobs="user_jobs")) as client:
        await cluster.worker(unhandled_seconds=2)
        job = await client.submit("GREET", {"name": "x"})
        final = await client.get(job["id"], wait=20)
        assert final["status"] == "FAILED"
        assert "no worker has a handler for type 'GREET'" in final["error"]


async def test_a_worker_without_the_handler_leaves_the_job_as_it_is_for_one_that_has_it(cluster: Cluster) -> None:
    async with Client(await cluster.api(jobs="user_jobs")) as client:
        await cluster.worker(unhandled_seconds=120)
        job = await client.submit("GREET", {"name": "Ada"})
        await eventually(lambda: cluster.log().count("unhandled") >= 2)
        assert cluster.rows("SELECT status, fence, attempt FROM scheduler.jobs") == [("PENDING", 0, 0)]
        await cluster.worker(jobs="user_jobs")
        final = await client.get(job["id"], wait=60)
        assert (final["status"], final["attempt"], final["result"]) == ("COMPLETED", 1, {"greeting": "hello Ada"})


async def test_a_snoozed_job_spends_no_attempt(cluster: Cluster) -> None:
    async with Client(await cluster.api(jobs="user_jobs")) as client:
        await cluster.worker(jobs="user_jobs")
        job = await client.submit("SNOOZER", {})
        final = await client.get(job["id"], wait=20)
        assert (final["status"], final["attempt"]) == ("COMPLETED", 1)
        assert cluster.rows("SELECT fence FROM scheduler.jobs") == [(3,)]
