"""One short real run, whole: the healthy build is valid, the broken one is caught and its lost jobs are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chaos.record.runs import load_judgement, load_run
from chaos.record.verdict import Check

ROOT = Path(__file__).parents[2]
RUN_SECONDS = 150.0
pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]


@dataclass
class Ended:
    """A `chaos` command that has ended: what it printed, its exit code, and the run it made."""

    exit_code: int
    text: str
    folder: Path

    def check(self, name: str) -> Check:
        return next(check for check in load_judgement(self.folder).checks if check.name == name)


def start(runs: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "chaos", "run", "worker-killed", "--runs-dir", str(runs), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"}
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **output)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """The same short scenario on the healthy and on the broken build, side by side."""
    folders = {build: tmp_path_factory.mktemp(build) for build in ("healthy", "broken")}
    short = ("--jobs", "60", "--duration", "6", "--seed", "3")
    processes = {
        "healthy": start(folders["healthy"], *short),
        "broken": start(folders["broken"], *short, "--control", "settle-before-body"),
    }
    try:
        texts = {build: process.communicate(timeout=RUN_SECONDS)[0] for build, process in processes.items()}
        yield {
            build: Ended(process.returncode, texts[build], (folders[build] / "latest").resolve())
            for build, process in processes.items()
        }
    finally:
        for process in processes.values():
            process.terminate()
            process.wait(60)


def test_a_healthy_scheduler_passes_every_check_while_its_workers_are_killed(runs: dict[str, Ended]) -> None:
    run = runs["healthy"]
    assert run.exit_code == 0, run.text
    assert load_judgement(run.folder).verdict == "valid"
    recorded = load_run(run.folder)
    assert [phase.name for phase in recorded.manifest.phases] == ["steady", "inject", "heal", "drain", "judge"]
    assert recorded.fault_count >= 1
    assert len(recorded.finals) == len(recorded.accepted) == 60


def test_a_worker_that_settles_before_it_runs_is_caught_and_its_lost_jobs_are_named(runs: dict[str, Ended]) -> None:
    run = runs["broken"]
    assert run.exit_code == 1, run.text
    check = run.check("at-least-once")
    assert check.verdict == "invalid"
    recorded = load_run(run.folder)
    assert set(check.details["lost"]) <= set(recorded.accepted)
    assert any(job in re.sub(r"\s", "", run.text) for job in check.details["lost"]), run.text


def test_the_report_notebook_executes_on_a_real_run(runs: dict[str, Ended]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chaos", "report", str(runs["healthy"].folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.strip().splitlines()[-1])
    assert "at-least-once" in page.read_text(encoding="utf-8")


def test_nothing_of_a_run_is_left_behind_when_it_is_interrupted(tmp_path: Path) -> None:
    process = start(tmp_path, "--jobs", "20", "--duration", "5")
    try:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if "steady" in line:
                break
        children = _children_of(process.pid)
        process.terminate()
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert children, "the stack had no process"
    assert not [pid for pid in children if _lives(pid)]


def _children_of(parent: int) -> list[int]:
    listing = ["ps", "-A", "-o", "pid=,ppid="]
    table = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in table.splitlines()]
    return [pid for pid, ppid in pairs if ppid == parent]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
