"""What API and worker tell while one job runs, in their own processes on real stores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scheduler import Client
from scheduler.facts.facts import FACTS
from tests.cluster import Cluster, eventually

TRACED = """
from pathlib import Path
from scheduler.testing import trace
trace(Path(__file__).with_name("trace.jsonl"))
"""
API = ["inserting", "inserted", "submitted", "published"]
WORKER = ["delivered", "claimed", "handler_started", "handler_ended", "settled"]
ENDS = ["completed", "acknowledged"]  # told as a number, and of a stream entry


@pytest.mark.e2e
async def test_the_facts_of_a_job_tell_its_way_through_both_processes(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "traced.py").write_text(TRACED)
    cluster.settings["jobs"] = "traced"
    worker = await cluster.worker()
    async with Client(await cluster.api()) as client:
        job = await client.submit("NOOP", {})
        assert (await client.get(job["id"], wait=20))["status"] == "COMPLETED"
    file = tmp_path / "trace.jsonl"
    await eventually(lambda: '"acknowledged"' in file.read_text(), of="the acknowledgement")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["fact"] for line in lines} <= {fact.name for fact in FACTS}
    for process, facts in ((cluster.processes[-1], API), (worker, WORKER)):
        own = [line["fact"] for line in lines if job["id"] in line["ids"] and line["pid"] == process.pid]
        assert own == facts
    at = {line["fact"]: line["at"] for line in reversed(lines)}
    assert at["inserted"] < at["claimed"] < at["handler_started"] < at["handler_ended"] < at["settled"]
    counted = {name: sum(line["amount"] for line in lines if line["fact"] == name) for name in at}
    assert {name: counted[name] for name in (*API, *WORKER, *ENDS)} == dict.fromkeys((*API, *WORKER, *ENDS), 1)
