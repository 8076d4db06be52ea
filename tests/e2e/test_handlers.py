"""What a handler finds in a real worker: its defaults, its resources, its log, its tracebacks, and when to give up."""

from __future__ import annotations

import json
import re
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Cluster, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def scheduler_settings() -> dict[str, Any]:
    return {"jobs": "user_jobs", "backoff_base_seconds": 60, "lease_seconds": 1}


def _lines(cluster: Cluster, words: str) -> list[str]:
    return [line for line in cluster.log().splitlines() if words in line]


async def test_a_handler_finds_its_types_defaults_its_resources_its_log_and_its_traceback(cluster: Cluster) -> None:
    await cluster.api()
    worker = await cluster.worker()
    async with cluster.client() as client:
        job = await client.submit("LOOK", {"attempts": 2})
        plain = await client.submit("LOOK-PLAIN", {}, max_attempts=1)
        assert job["max_attempts"] == 2
        done = await client.get(job["id"], wait=20)
        assert done["result"] == {"max_attempts": 2, "is_last": True, "left": 30, "found": ["opened"]}
        assert (await client.get(plain["id"], wait=20))["result"] == [1, True, True]
    failed, completed = done["attempts"]
    assert failed["error"].startswith("ValueError: too deep\n")
    assert "user_jobs.py" in failed["traceback"]
    assert "[Previous line repeated 16 more times]" in failed["traceback"], "20 frames, as Python shows them"
    assert "scheduler/worker" not in failed["traceback"]
    assert completed["traceback"] is None
    worker.send_signal(signal.SIGTERM)
    await eventually(lambda: worker.poll() == 0, of="the end of the worker")

    assert len(_lines(cluster, "shelf opened books=3")) == len(_lines(cluster, "shelf closed")) == 1
    about = f"job_id={job['id']} type=LOOK attempt=2"
    assert len(_lines(cluster, f"first line\\nsecond line {about} shelf=7")) == 1
    assert len(_lines(cluster, f"looked {about} found=['opened']")) == 1
    assert len(_lines(cluster, f"from a thread job_id={plain['id']} type=LOOK-PLAIN attempt=1")) == 1
    assert not _lines(cluster, "nobody wants to know")
    assert _lines(cluster, "job_retried")[0].count("too deep\\n2026") == 1
    assert len(_lines(cluster, "ValueError: too deep")) == 2, "the fact, and the end of its traceback"
    forged = [line for line in cluster.log().splitlines() if re.match(r"2026-01-01T00:00:00.000Z", line)]
    assert forged == []


async def test_the_log_as_json_has_the_fields_of_the_job_and_the_trace(cluster: Cluster) -> None:
    cluster.settings["log_format"] = "json"
    await cluster.api()
    await cluster.worker()
    async with cluster.client() as client:
        job = await client.submit("LOOK", {"attempts": 2}, max_attempts=1)
        await client.get(job["id"], wait=20)
    told = [json.loads(line) for line in cluster.log().splitlines() if line.startswith("{")]
    by_event = {line["event"]: line for line in told}
    found = {name: by_event["first line\nsecond line"][name] for name in ("job_id", "type", "attempt", "shelf")}
    assert found == {"job_id": job["id"], "type": "LOOK", "attempt": 1, "shelf": 7}
    assert by_event["job_failed"]["trace"].rstrip().endswith("api forged")


async def test_a_handler_is_told_when_what_it_does_is_no_longer_wanted(cluster: Cluster) -> None:
    await cluster.api()
    worker = await cluster.worker(grace_seconds=1)
    once: dict[str, Any] = {"max_attempts": 1}
    async with cluster.client() as client:
        for why in ("cancelled", "timed out", "lost its lease", "the worker ends"):
            job = await client.submit("UNTIL-CANCELLED", {}, timeout_seconds=1 if why == "timed out" else None, **once)
            query = "SELECT FROM scheduler.jobs WHERE id = %s AND status = 'PROCESSING'"
            await eventually(partial(cluster.rows, query, job["id"]), of="a running job")
            if why == "cancelled":
                await client.cancel(job["id"])
            elif why == "lost its lease":
                cluster.rows(
                    "UPDATE scheduler.jobs SET fence = fence + 1, worker_id = gen_random_uuid() WHERE id = %s"
                    " RETURNING 1",
                    job["id"],
                )
                cluster.rows("UPDATE scheduler.workers SET expires_at = now() - interval '1 second' RETURNING 1")
            elif why == "the worker ends":
                worker.send_signal(signal.SIGTERM)
            told = f"no longer wanted job_id={job['id']}"
            await eventually(partial(_lines, cluster, told), of=f"a handler that hears of it: {why}")
    assert not _lines(cluster, "never told")
    await eventually(lambda: worker.poll() == 0, of="the end of the worker")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("raise OSError('no route')\n    yield", "resource 'pool' could not be opened: OSError: no route"),
        ("yield\n    raise OSError('torn')", "resource 'pool' could not be closed: OSError: torn"),
    ],
)
async def test_a_resource_that_fails_ends_the_worker_with_a_word(
    cluster: Cluster, tmp_path: Path, body: str, word: str
) -> None:
    code = f"from scheduler import resource\n\n@resource\nasync def pool():\n    {body}\n"
    (tmp_path / "own_pool.py").write_text(code)
    worker = cluster.start("worker", jobs="own_pool")
    if "closed" in word:
        await eventually(lambda: "worker_started" in cluster.log(), of="a worker")
        worker.send_signal(signal.SIGTERM)
    await eventually(lambda: worker.poll() == 1, of="the end of the worker")
    assert f"scheduler: {word}" in cluster.log()
    assert len(_lines(cluster, "resource_failed resource=pool")) == 1
    assert ("worker_started" in cluster.log()) is ("closed" in word)
