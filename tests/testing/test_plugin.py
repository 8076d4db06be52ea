"""The plugin from outside: a user's own project, its own pytest run, and what that leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import ROOT

pytestmark = pytest.mark.e2e

PROJECT = {
    "pytest.ini": """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
pythonpath = .
filterwarnings = error
""",
    "shop/__init__.py": "",
    "shop/handlers.py": """
from pathlib import Path
from scheduler import job

@job("CHARGE")
def charge(ctx, payload):
    with Path(payload["ledger"]).open("a") as ledger:
        ledger.write(ctx.job_id + "\\n")
    return {"charged": payload["order"]}
""",
    "conftest.py": """
import json
from pathlib import Path
import pytest

pytest_plugins = ["scheduler.testing.fixtures"]

@pytest.fixture
def scheduler_settings():
    return {"jobs": "shop.handlers", "lease_seconds": 1}

@pytest.fixture(autouse=True)
def told(scheduler_stack):
    yield
    [[data]] = scheduler_stack.rows("SHOW embedded.data")
    with scheduler_stack.redis() as redis:
        redis_pid = redis.info("server")["process_id"]
    postgres_pid = int((Path(data) / "postmaster.pid").read_text().split()[0])
    pids = [postgres_pid, redis_pid, *(process.pid for process in scheduler_stack.processes)]
    with open("told", "a") as told:
        told.write(json.dumps({"folder": data, "pids": pids, "url": scheduler_stack.database_url}) + "\\n")
""",
    "test_shop.py": """
import signal
from scheduler.testing import eventually, run_through_crash

async def test_a_charge_is_repeated_under_the_same_id_after_a_crash(scheduler_stack, tmp_path):
    ledger = tmp_path / "ledger"
    payload = {"order": 7, "ledger": str(ledger)}
    job = await run_through_crash(scheduler_stack, "worker.handler-end", "CHARGE", payload)
    assert (job["status"], job["result"]) == ("COMPLETED", {"charged": 7})
    assert ledger.read_text().split() == [job["id"]] * 2

async def test_that_fails_with_a_frozen_worker(scheduler_stack):
    worker = await scheduler_stack.worker()
    await eventually(lambda: "worker_started" in scheduler_stack.log())
    worker.send_signal(signal.SIGSTOP)
    assert False, "on purpose"

def test_of_what_the_others_left(scheduler_stack):
    names = {name for [name] in scheduler_stack.rows("SELECT datname FROM pg_database WHERE datname LIKE 'scheduler%'")}
    assert len(names) == 2  # the template, and this test's own
    with scheduler_stack.redis() as redis:
        assert redis.keys() == []
""",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "shop").mkdir()
    (folder / "tmp").mkdir()
    for name, text in PROJECT.items():
        (folder / name).write_text(text)
    return folder


def _run(project: Path) -> str:
    """What pytest says in the user's project, as a fresh process that knows nothing of this one's servers."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith(("SCHEDULER_", "PYTEST_"))}
    environment = {**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(project / "tmp")}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={project / 'base'}"]
    ran = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return ran.stdout + ran.stderr


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_users_tests_run_jobs_through_crashes_and_leave_nothing_behind(project: Path) -> None:
    said = _run(project)
    assert "1 failed, 2 passed" in said, said
    assert "scheduler processes" in said, said
    assert "worker_started" in said, said
    told: list[dict[str, Any]] = [json.loads(line) for line in (project / "told").read_text().splitlines()]
    assert (len(told), len({each["url"] for each in told})) == (3, 3)
    assert [len(each["pids"]) for each in told] == [2 + 3, 2 + 1, 2]
    assert all(_is_gone(pid) for each in told for pid in each["pids"])
    assert not Path(told[0]["folder"]).exists()
    assert list((project / "tmp").iterdir()) == []
