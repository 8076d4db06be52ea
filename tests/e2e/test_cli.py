"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    return subprocess.run(["ps", "axwwo", "args"], capture_output=True, text=True, check=True, timeout=10).stdout


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


@contextmanager
def _up(folder: Path, *words: str, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """`scheduler up` on embedded stores in `folder`, writing to up.log there."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("SCHEDULER_")}
    given = {f"SCHEDULER_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "scheduler", "up", *words]
    with (folder / "up.log").open("wb") as output:
        up = subprocess.Popen(
            command, cwd=folder, env={**clean, **given, "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
        )
    try:
        yield up
    finally:
        up.terminate()
        up.wait(40)


def _told(folder: Path, event: str) -> list[str]:
    return [line for line in (folder / "up.log").read_text().splitlines() if f" {event}" in line]


def _children(parent: int) -> dict[str, list[int]]:
    """The pids of its child processes by what they are: api, worker, or a program."""
    listing = ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="]
    table = subprocess.run(listing, capture_output=True, text=True, check=True, timeout=10).stdout
    found: dict[str, list[int]] = {}
    for pid, ppid, program, *words in map(str.split, table.splitlines()):
        if int(ppid) == parent:
            found.setdefault(words[-1] if "scheduler" in words else Path(program).name, []).append(int(pid))
    return found


async def test_up_starts_everything_embedded_and_ctrl_c_stops_all_of_it(tmp_path: Path) -> None:
    port = free_port()
    with _up(tmp_path, port=port) as up:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            await eventually(lambda: _told(tmp_path, "worker_started") and _told(tmp_path, "api_listening"), within=60)
            job = (await http.post("/jobs", json={"type": "EMAIL", "payload": {"to": "a@example.com"}})).json()
            final = await http.get(f"/jobs/{job['id']}", params={"wait": 20}, timeout=30)
            assert final.json()["status"] == "COMPLETED"
        assert str(tmp_path) in _processes()
        up.send_signal(signal.SIGINT)
        assert up.wait(40) == 0
        assert str(tmp_path) not in _processes()


async def test_up_starts_again_what_is_killed_and_sigterm_ends_the_api_before_the_workers_drain(tmp_path: Path) -> None:
    with _up(tmp_path, "--workers", "1", port=free_port()) as up:
        await eventually(lambda: _told(tmp_path, "worker_started") and _told(tmp_path, "api_listening"), within=60)
        first = _children(up.pid)
        for role in ("worker", "api"):
            os.kill(first[role][0], signal.SIGKILL)
        await eventually(
            lambda: (len(_told(tmp_path, "worker_started")), len(_told(tmp_path, "api_listening"))) == (2, 2), within=30
        )
        deaths = _told(tmp_path, "child_died")
        assert {line.partition("child=")[2] for line in deaths} == {
            "worker 1 exit_code=-9 restart_seconds=0.4",
            "api exit_code=-9 restart_seconds=0.4",
        }
        again = _children(up.pid)
        assert again["postgres"] == first["postgres"]
        assert again["api"] != first["api"]
        up.terminate()
        await eventually(lambda: _told(tmp_path, "worker_draining"), every=0.01)
        assert not _lives(again["api"][0])
        assert up.wait(40) == 0
        assert not any(_lives(pid) for pids in again.values() for pid in pids)


async def test_a_worker_that_keeps_dying_does_not_spin_and_the_stores_go_with_up_when_it_is_killed(
    tmp_path: Path,
) -> None:
    with _up(tmp_path, "--workers", "1", port=free_port(), jobs="no_such_module") as up:
        await eventually(lambda: len(_told(tmp_path, "child_died child=worker 1")) == 2, within=60)
        waits = [line.rpartition("=")[2] for line in _told(tmp_path, "child_died child=worker 1")]
        assert waits == ["0.4", "0.8"]
        left = _children(up.pid)
        assert {"postgres", "valkey-server"} <= left.keys()
        up.kill()
        up.wait(10)
        await eventually(lambda: not any(_lives(pid) for pids in left.values() for pid in pids), within=30)


def test_up_names_the_port_that_is_taken_and_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with _up(tmp_path, port=port) as up:
            assert up.wait(40) == 2
    assert f"port {port} is taken; stop what uses it, or set SCHEDULER_PORT" in (tmp_path / "up.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["up.log"]


def _lives(pid: int) -> bool:
    """Not reaped, and no zombie that waits for its new parent either."""
    listing = ["ps", "-o", "state=", "-p", str(pid)]
    state = subprocess.run(listing, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    return bool(state) and not state.startswith("Z")


async def test_a_process_with_another_stream_ends_with_2(cluster: Cluster) -> None:
    cluster.start("worker")
    bound = "SELECT value FROM scheduler.settings"
    await eventually(lambda: cluster.rows(bound) == [(cluster.stream,)], within=20)
    others = [cluster.start(command, stream="other", port=0) for command in ("api", "worker")]
    await eventually(lambda: {each.poll() for each in others} == {2}, within=20)
    assert cluster.log().count(f"this database's jobs are on {cluster.stream!r}") == 2


def test_an_unknown_setting_ends_a_process_with_2_and_the_nearest_one(cluster: Cluster) -> None:
    environment = cluster.environment() | {"SCHEDULER_LEASE_SECOND": "5"}
    command = [sys.executable, "-m", "scheduler", "worker"]
    wrong = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, "did you mean SCHEDULER_LEASE_SECONDS?" in wrong.stderr) == (2, True)
