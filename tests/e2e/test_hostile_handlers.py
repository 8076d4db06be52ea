"""What a handler may do without harm to its worker: handlers that raise, block, cancel and do not listen."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from scheduler.testing import eventually
from tests.cluster import Cluster
from tests.e2e.hostile_jobs import ERRORS

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def scheduler_settings() -> dict[str, Any]:
    return {"jobs": "e2e.hostile_jobs", "concurrency": 3, "lease_seconds": 1, "backoff_base_seconds": 0.1}


async def test_whatever_a_handler_raises_is_a_failed_attempt_and_costs_no_slot(cluster: Cluster) -> None:
    await cluster.api()
    worker = await cluster.worker()
    raised: list[tuple[str, dict[str, Any]]] = [
        (type, {"what": what, "wait": wait})
        for what in ERRORS
        for type, wait in (("RAISE", False), ("RAISE", True), ("RAISE-PLAIN", False))
    ]
    asked = [*raised, ("CANCEL-SELF", {"wait": True})] * 2
    async with cluster.client() as client:
        ids = await client.submit_batch([{"type": t, "payload": p, "max_attempts": 1} for t, p in asked])
        jobs = [await client.get(job_id, wait=30) for job_id in ids]
        assert [(p, job["status"]) for (_, p), job in zip(asked, jobs, strict=True) if job["status"] != "FAILED"] == []
        for (_, payload), job in zip(asked, jobs, strict=True):
            name = ERRORS[payload["what"]].__name__ if "what" in payload else "cancelled from within"
            assert name in job["error"] or "cancelled from within" in job["error"] or "StopIteration" in job["error"]
        # All slots are there: three jobs that wait for each other's time run at once, by the very same process.
        slow = await client.submit_batch([{"type": "SLEEP", "payload": {"seconds": 1.0}}] * 3)
        done = [await client.get(job_id, wait=10) for job_id in slow]
        assert max(job["started_at"] for job in done) < min(job["finished_at"] for job in done)
        assert len((await client.stats())["workers"]) == 1
    assert worker.poll() is None


async def test_each_job_has_a_context_of_its_own(cluster: Cluster) -> None:
    await cluster.api()
    await cluster.worker()
    async with cluster.client() as client:
        ids = await client.submit_batch([{"type": "TENANT", "payload": {}}] * 20)
        assert {(await client.get(job_id, wait=10))["result"] for job_id in ids} == {"nobody"}
        other = await client.submit("AWAITABLE", {})
        assert (await client.get(other["id"], wait=10))["result"] == "awaited"
        large = await client.submit("SIZE", {"text": "x" * 900_000})
        assert (await client.get(large["id"], wait=10))["result"] == 900_000
        itself = await client.submit("CANCEL-SELF", {"wait": False})
        assert (await client.get(itself["id"], wait=10))["status"] == "COMPLETED"


async def test_a_handler_that_does_not_listen_is_given_back_unburned_at_sigterm(cluster: Cluster) -> None:
    await cluster.api()
    worker = await cluster.worker(grace_seconds=0.5)
    async with cluster.client() as client:
        deaf = await client.submit("DEAF", {"seconds": 60})
        await eventually(lambda: _has(client, deaf["id"], "PROCESSING"), within=10)
        worker.send_signal(signal.SIGTERM)
        await eventually(lambda: worker.poll() is not None, within=20)
        job = await client.get(deaf["id"])
        assert (worker.returncode, job["status"], job["attempt"]) == (0, "PENDING", 0)


async def test_bodies_that_outlive_their_time_out_cost_no_other_job_its_time(cluster: Cluster) -> None:
    """Two plain bodies sit in their threads for good: what comes after them runs, and has its whole time."""
    await cluster.api()
    await cluster.worker(concurrency=2)
    once: dict[str, Any] = {"max_attempts": 1, "timeout_seconds": 0.5}
    async with cluster.client() as client:
        types = ("BLOCK-THREAD", "BLOCK-THREAD", "DEAF")
        late = await client.submit_batch([{"type": type, "payload": {"seconds": 30}, **once} for type in types])
        for job_id in late:
            job = await client.get(job_id, wait=20)
            assert (job["status"], job["error"]) == ("FAILED", "TimeoutError: timed out after 0.5 s (timeout_seconds)")
        plain = await client.submit_batch([{"type": "BLOCK-THREAD", "payload": {"seconds": 0.1}, **once}] * 4)
        assert [(await client.get(job_id, wait=10))["status"] for job_id in plain] == ["COMPLETED"] * 4
        blocked = await client.submit("BLOCK-LOOP", {"seconds": 1.0}, **once)
        assert "timed out" in (await client.get(blocked["id"], wait=10))["error"], "it let nobody interrupt it"


async def test_a_worker_that_has_lost_too_many_bodies_stops_to_be_replaced(cluster: Cluster) -> None:
    await cluster.api()
    worker = await cluster.worker(concurrency=40, grace_seconds=0.5)
    body = {"type": "BLOCK-THREAD", "payload": {"seconds": 60}, "max_attempts": 1, "timeout_seconds": 0.2}
    async with cluster.client() as client:
        await client.submit_batch([body] * 40)
        await eventually(lambda: worker.poll() is not None, within=20)
        assert worker.returncode == os.EX_SOFTWARE
        assert "worker_worn" in cluster.log()
        assert (await client.stats())["processing"] == 0


@pytest.mark.parametrize("loop", ["settler", "reader", "rescuer"])
async def test_a_worker_whose_loop_ends_ends_itself_and_others_take_over(cluster: Cluster, loop: str) -> None:
    await cluster.api()
    worker = await cluster.worker()
    async with cluster.client() as client:
        await client.submit("END-LOOP", {"loop": loop})
        await eventually(lambda: worker.poll() is not None, within=10)
        assert worker.returncode == 70
        assert f"the loop {loop} has ended" in cluster.log()
        await cluster.worker()
        after = await client.submit("NOOP", {})
        assert (await client.get(after["id"], wait=10))["status"] == "COMPLETED"


async def test_a_loop_that_stands_still_is_told_of_and_then_ends_its_worker(cluster: Cluster) -> None:
    """A lease goes on for a while: a body may block the loop for longer than that. It does not for ever."""
    await cluster.api()
    worker = await cluster.worker(stall_seconds=3)
    async with cluster.client() as client:
        await client.submit("BLOCK-LOOP", {"seconds": 1.6})
        await client.submit("BLOCK-LOOP", {"seconds": 60})
        await eventually(lambda: "loop_blocked" in cluster.log(), within=10)
        assert worker.poll() is None
        await eventually(lambda: worker.poll() is not None, within=15)
    assert worker.returncode == 70
    assert "hostile_jobs.py" in cluster.log().partition("loop_blocked")[2].splitlines()[0]
    assert "event loop has stood still" in cluster.log() or "has stood still for" in cluster.log()


async def _has(client: Any, job_id: str, status: str) -> bool:
    return bool((await client.get(job_id))["status"] == status)
