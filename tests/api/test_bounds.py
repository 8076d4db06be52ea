"""What is bounded stays bounded under concurrency, and large values get through within those bounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.cluster import JSON, Cluster, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

ECHO = """
from scheduler import job

@job("ECHO")
async def echo(ctx, payload):
    return payload
"""


async def test_submissions_at_the_same_time_do_not_exceed_the_backlog(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(max_backlog=10), timeout=30, trust_env=False) as http:
        keyed = [{"type": "NOOP", "payload": {}, "idempotency_key": f"k{n}"} for n in range(3)]
        posts = [http.post("/jobs", json={"type": "NOOP", "payload": {}}) for _ in range(40)]
        posts += [http.post("/jobs/batch", json={"jobs": keyed}) for _ in range(5)]
        answers = Counter(answer.status_code for answer in await asyncio.gather(*posts))
    assert set(answers) == {202, 429}
    assert cluster.unfinished() <= 10


async def test_refused_and_repeated_submissions_take_no_room(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(max_backlog=3), timeout=30, trust_env=False) as http:
        job = {"type": "NOOP", "payload": {}, "idempotency_key": "k"}
        answers = [await http.post("/jobs", json=job) for _ in range(4)]
        answers += [await http.post("/jobs", json={**job, "payload": {"a": 1}}) for _ in range(4)]
        answers += [await http.post("/jobs", json={"type": "NOOP", "payload": {}}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202] + [200] * 3 + [409] * 4 + [202] * 2


async def test_large_payloads_submitted_at_the_same_time_are_all_accepted(cluster: Cluster) -> None:
    body = b'{"type":"NOOP","payload":{"a":"' + b"x" * 1_000_000 + b'"}}'
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=60, headers=JSON, trust_env=False) as http:
        answers = await asyncio.gather(*(http.post("/jobs", content=body) for _ in range(80)))
    assert {answer.status_code for answer in answers} == {202}
    assert cluster.unfinished() == 80


@pytest.mark.slow
async def test_many_large_payloads_and_results_drain_though_no_deadline_fits_them_all(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "echo_job.py").write_text(ECHO)
    await cluster.api()
    query = """INSERT INTO scheduler.jobs (id, type, payload, max_attempts)
               SELECT gen_random_uuid(), 'ECHO', json_build_object('a', repeat('x', 1000000)), 4
               FROM generate_series(1, %s) RETURNING 1"""
    assert len(cluster.rows(query, 150)) == 150
    await cluster.worker(jobs="echo_job", concurrency=150, store_deadline_seconds=1)
    await eventually(lambda: cluster.unfinished() == 0, within=60, every=0.2, of="no unfinished job")
    assert cluster.rows("SELECT DISTINCT status, length(result::text) FROM scheduler.jobs") == [("COMPLETED", 1000008)]


async def test_jobs_of_the_far_future_take_neither_backlog_nor_redis(cluster: Cluster) -> None:
    url = await cluster.api(max_backlog=50)
    await cluster.worker()
    async with httpx.AsyncClient(base_url=url, timeout=30, headers=JSON, trust_env=False) as http:
        far = [{"type": "NOOP", "payload": {}, "delay_seconds": 300 * 86_400}] * 50
        assert (await http.post("/jobs/batch", json={"jobs": far})).status_code == 202
        assert (await http.post("/jobs", json={"type": "NOOP", "payload": {}})).status_code == 202
        await eventually(lambda: cluster.unfinished() == 50)
        assert cluster.redis_lengths()["retry"] == 0
        figures = (await http.get("/stats")).json()
        assert (figures["backlog"], figures["waiting"]) == (0, 50)
        near = [{"type": "NOOP", "payload": {}, "delay_seconds": 40}] * 50
        ids = (await http.post("/jobs/batch", json={"jobs": near})).json()["ids"]
        await eventually(lambda: cluster.redis_lengths()["retry"] == 50)
        for job_id in ids:
            assert (await http.post(f"/jobs/{job_id}/cancel")).status_code == 200
        assert cluster.redis_lengths()["retry"] == 0
