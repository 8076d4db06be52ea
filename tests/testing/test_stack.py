"""The throw-away stack: what its processes are given, how they end, and what goes wrong clearly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scheduler import SchedulerError
from scheduler.embedded import Child, Server
from scheduler.testing import HANDLER_POINTS, Stack, StoreUrls, eventually, fixtures, run_through_crash
from tests.cluster import ROOT

pytestmark = pytest.mark.e2e

WHERE = """
import os
from scheduler import job

@job("WHERE")
def where(ctx, payload):
    return {"folder": os.getcwd(), **{name: os.environ.get(name) for name in payload["names"]}}
"""

COUNT = """
from pathlib import Path
from scheduler import job

@job("COUNT")
def count(ctx, payload):
    with Path(payload["runs"]).open("a") as runs:
        runs.write("x")
"""


async def test_a_handler_finds_the_folder_the_modules_and_the_variables_of_its_test(
    scheduler_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, folder = tmp_path / "modules", tmp_path / "a folder"
    for made in (modules, folder):
        made.mkdir()
    (modules / "where_job.py").write_text(WHERE)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(modules)
    variables = {"SHOP_TOKEN": "two words", "PGAPPNAME": "shop", "LANG": "C.UTF-8"}
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("SCHEDULER_GROUP", "a stranger's")
    monkeypatch.delenv("LC_ALL", raising=False)
    scheduler_stack.settings["jobs"] = ["where_job"]
    await scheduler_stack.api()
    await scheduler_stack.worker()
    async with scheduler_stack.client() as client:
        job = await client.submit("WHERE", {"names": [*variables, "SCHEDULER_GROUP", "LC_ALL"]})
        await scheduler_stack.drained()
        final = await client.get(job["id"])
    assert final["result"] == {"folder": str(folder), **variables, "SCHEDULER_GROUP": None, "LC_ALL": None}


async def test_drained_says_what_is_left(scheduler_stack: Stack) -> None:
    await scheduler_stack.api()
    async with scheduler_stack.client() as client:
        await client.submit("NOOP", {})
    with pytest.raises(AssertionError, match=r"a drained stack not seen .*'unfinished': 1, 'stream': 1"):
        await scheduler_stack.drained(within=1)


async def test_what_waits_in_a_lane_is_left_and_a_key_of_another_type_is_no_end_of_the_wait(
    scheduler_stack: Stack,
) -> None:
    lanes = f"{{{scheduler_stack.stream}}}:lanes"
    with scheduler_stack.redis() as client:
        client.sadd(lanes, "REST")
        client.xadd(f"{{{scheduler_stack.stream}}}:lane:REST", {"id": "x"})
        with pytest.raises(AssertionError, match=r"a drained stack not seen .*'stream': 1"):
            await scheduler_stack.drained(within=0.3)
        client.set(lanes, "no set")
        with pytest.raises(AssertionError, match=r"a drained stack not seen .*WRONGTYPE"):
            await scheduler_stack.drained(within=0.3)


async def test_a_worker_makes_the_tables_that_its_registration_is_looked_for_in(scheduler_stack: Stack) -> None:
    with psycopg.connect(scheduler_stack.database_url, autocommit=True, connect_timeout=5) as connection:
        connection.execute("DROP SCHEMA scheduler CASCADE")
    await scheduler_stack.worker()


async def test_a_process_that_cannot_start_fails_at_once_with_the_end_of_its_log(scheduler_stack: Stack) -> None:
    with pytest.raises(SchedulerError, match=r"worker-0 ended with 2; (.|\n)*SCHEDULER_JOBS='no_such_module'"):
        await scheduler_stack.worker(jobs="no_such_module")
    with pytest.raises(SchedulerError, match=r"api-1 ended with 2; (.|\n)*SCHEDULER_MAX_BACKLOG"):
        await scheduler_stack.api(max_backlog=0)


async def test_a_setting_that_does_not_exist_names_the_nearest_and_a_client_wants_an_api(
    scheduler_stack: Stack,
) -> None:
    with pytest.raises(SchedulerError, match="'lease_second' is not a setting; did you mean 'lease_seconds'"):
        await scheduler_stack.worker(lease_second=1)
    with pytest.raises(SchedulerError, match=r"await stack\.api\(\)"):
        scheduler_stack.client()
    assert scheduler_stack.processes == []


class Late(Stack):
    """Looks at a process only when that is dead: killed by its crash point, or else by the test."""

    def _start(self, command: str, settings: dict[str, Any]) -> Child:
        worker = super()._start(command, settings)
        if "crash_points" not in settings:
            worker.process.kill()
        worker.process.wait(30)
        return worker


async def test_a_worker_that_died_before_it_was_seen_has_started_only_if_a_crash_point_may_have_killed_it(
    scheduler_stack: Stack,
) -> None:
    await scheduler_stack.api()
    async with scheduler_stack.client() as client:
        await client.submit("NOOP", {})
    late = Late(
        scheduler_stack.database_url,
        scheduler_stack.redis_url,
        scheduler_stack.folder,
        stream=scheduler_stack.stream,
        crew=scheduler_stack.crew,
    )
    worker = await late.worker(crash_points="worker.after-read:kill")
    assert worker.returncode == -signal.SIGKILL
    with pytest.raises(SchedulerError, match="ended with -9"):
        await late.worker()


@pytest.mark.chaos
@pytest.mark.parametrize("point", ["worker.after-claim", "worker.handler-start"])
async def test_a_job_runs_through_a_crash_before_its_handler(scheduler_stack: Stack, point: str) -> None:
    """A crash right behind the handler is what the user's project in test_plugin.py tries."""
    assert point in HANDLER_POINTS
    scheduler_stack.settings["LEASE_SECONDS"] = 1
    job = await run_through_crash(scheduler_stack, point, "NOOP", {}, max_attempts=2)
    assert (job["status"], job["attempt"], job["max_attempts"]) == ("COMPLETED", 2, 2)
    assert [process.poll() for process in scheduler_stack.processes] == [None, -signal.SIGKILL, None]
    assert scheduler_stack.redis_lengths() == {"stream": 0, "pending": 0, "retry": 0, "dlq": 0}


@pytest.mark.chaos
async def test_a_crash_behind_the_settle_runs_the_handler_no_second_time(
    scheduler_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "count_job.py").write_text(COUNT)
    monkeypatch.syspath_prepend(tmp_path)
    scheduler_stack.settings |= {"jobs": "count_job", "lease_seconds": 1}
    runs = tmp_path / "runs"
    job = await run_through_crash(scheduler_stack, "worker.after-settle", "COUNT", {"runs": str(runs)})
    assert (job["status"], job["attempt"], runs.read_text()) == ("COMPLETED", 1, "x")


async def test_stopping_ends_a_frozen_worker_and_deletes_its_keys_only(scheduler_stack: Stack) -> None:
    worker = await scheduler_stack.worker()
    worker.send_signal(signal.SIGSTOP)
    with scheduler_stack.redis() as redis:
        redis.set("another", 1)
        assert redis.keys(f"*{scheduler_stack.stream}*")
        scheduler_stack.stop()
        assert worker.returncode is not None
        assert redis.keys(f"*{scheduler_stack.stream}*") == []
        assert redis.delete("another") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a parent's death kill its children")
async def test_the_processes_die_with_a_test_process_that_is_killed(scheduler_stack: Stack, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import asyncio, os, pathlib
        from scheduler.testing import Stack
        stack = Stack({scheduler_stack.database_url!r}, {scheduler_stack.redis_url!r}, pathlib.Path({str(tmp_path)!r}))
        print(asyncio.run(stack.worker()).pid, flush=True)
        os.kill(os.getpid(), 9)
    """)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(  # noqa: ASYNC221  (the loop has nothing else to do)
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert await eventually(lambda: _is_gone(int(killed.stdout)), of="the end of the worker")


def _is_gone(pid: int) -> bool:
    """Reaped, or a zombie that its new parent has not reaped yet."""
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_servers_that_the_environment_names_are_used_and_no_other_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULER_TEST_DATABASE_URL", "postgresql://db/postgres?sslmode=require")
    monkeypatch.setenv("SCHEDULER_TEST_REDIS_URL", "redis://cache/1")
    monkeypatch.setattr(Server, "start", lambda server: pytest.fail(f"{server.name} was started"))
    with fixtures._stores() as urls:
        assert urls == StoreUrls("postgresql://db/postgres?sslmode=require", "redis://cache/1")
