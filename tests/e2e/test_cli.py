"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from scheduler.embedded import free_port
from tests.cluster import ROOT, Cluster, eventually

pytestmark = pytest.mark.e2e


def _run(cluster: Cluster, *words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scheduler", *words]
    environment = cluster.environment(port=cluster.url.rpartition(":")[2] or 1, **settings)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _processes() -> str:
    return subprocess.run(["ps", "axo", "args"], capture_output=True, text=True, check=True, timeout=10).stdout


async def test_submit_status_and_dlq_work_from_the_shell(cluster: Cluster) -> None:
    await cluster.api()
    await cluster.worker()
    submitted = json.loads(_run(cluster, "submit", "NOOP", '{"a": 1}', "--wait", "20").stdout)
    assert submitted["status"] == "COMPLETED"
    assert json.loads(_run(cluster, "status", submitted["id"]).stdout)["id"] == submitted["id"]
    assert "1 live workers" in _run(cluster, "status").stdout
    dead = json.loads(_run(cluster, "submit", "FAIL", "--max-attempts", "1", "--wait", "20").stdout)
    assert dead["id"] in _run(cluster, "dlq", "list").stdout.replace("\n", "")
    assert "sent back 1 job" in _run(cluster, "dlq", "redrive", dead["id"]).stdout
    await eventually(lambda: cluster.unfinished() == 0)
    assert "deleted 1 job" in _run(cluster, "dlq", "purge", "--type", "FAIL", "--yes").stdout


def test_what_cannot_work_ends_with_two_and_names_the_setting(cluster: Cluster) -> None:
    for setting, value in (("lease_seconds", "-1"), ("concurrency", "many"), ("jobs", "no_such_module")):
        failed = _run(cluster, "worker", **{setting: value})
        assert failed.returncode == 2, failed.stderr
        assert f"SCHEDULER_{setting.upper()}" in failed.stderr
    refused = _run(cluster, "submit", "NOOP", "{")
    assert (refused.returncode, "is not JSON" in refused.stderr) == (2, True)


async def test_up_starts_everything_embedded_and_ctrl_c_stops_all_of_it(tmp_path: Path) -> None:
    port = free_port()
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SCHEDULER_")}
    environment = {**clean, "SCHEDULER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(  # noqa: ASYNC220  (the loop has nothing else to do)
            [sys.executable, "-m", "scheduler", "up"], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            await eventually(
                lambda: "worker_started" in log.read_text() and "api_listening" in log.read_text(), within=60
            )
            job = (await http.post("/jobs", json={"type": "EMAIL", "payload": {"to": "a@example.com"}})).json()
            final = await http.get(f"/jobs/{job['id']}", params={"wait": 20}, timeout=30)
            assert final.json()["status"] == "COMPLETED"
        up.send_signal(signal.SIGINT)
        assert up.wait(40) == 0
        assert str(tmp_path) not in _processes()
    finally:
        up.kill()
        up.wait(10)
