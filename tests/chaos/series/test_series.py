"""Several runs at a time: crash points on the healthy build, and broken builds that must be caught.

A sample of `chaos points` and `chaos controls`, whole runs on real servers; the commands themselves run all.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chaos.controls.control import every, find
from chaos.scenarios import SCENARIOS, UNLISTED
from chaos.series import lanes
from chaos.series.campaign import Controls, Tried
from chaos.series.lanes import Ended, Trial, run_all
from scheduler.embedded import until
from tests.cluster import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

LANES, POINTS_SEED = 2, 7  # a seed that no control is run at
SAMPLED_POINTS = (
    "kill@worker.after-read-1",
    "kill@worker.handler-end-2",
    "pause@worker.handler-start-2",
    "reply_lost@worker.after-claim-1",
    "kill@api.after-commit-1",
    "kill@promoter.after-move-1",
)
SAMPLED_CONTROLS = ("no-status-guard", "submit-keyless", "retry-due-lost", "overload-dropped")


class Heard:
    """What a series told."""

    def __init__(self, runs: Path) -> None:
        self.points_wanted = [Trial(name, seed=POINTS_SEED, runs=str(runs)) for name in SAMPLED_POINTS]
        self.points: dict[str, Ended] = {}
        self.controls = Controls([find(name) for name in SAMPLED_CONTROLS], first_seed=1, runs_dir=str(runs))

    def tell(self, ended: Ended) -> list[Trial]:
        if (
            ended.trial.scenario in SAMPLED_POINTS
            and ended.trial.scenario not in self.points
            and not ended.trial.control
        ):
            self.points[ended.trial.scenario] = ended
            return []
        return self.controls.hear(ended)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    runs = tmp_path_factory.mktemp("series")
    found = Heard(runs)
    run_all([*found.points_wanted, *found.controls.trials()], LANES, found.tell)
    return found


@pytest.mark.parametrize("name", SAMPLED_POINTS)
def test_nothing_is_lost_where_a_process_dies_stops_or_loses_a_reply(heard: Heard, name: str) -> None:
    ended = heard.points[name]
    assert (ended.verdict, ended.invalid, ended.error) == ("valid", (), None), ended.path
    assert ended.faults >= 1


@pytest.mark.parametrize("name", SAMPLED_CONTROLS)
def test_a_broken_build_is_caught_by_each_of_its_checks(heard: Heard, name: str) -> None:
    assert heard.controls.tried[name].missed == []


def test_the_healthy_build_is_valid_under_the_schedules_that_caught_the_broken_ones(heard: Heard) -> None:
    assert len(heard.controls.healthy) >= len(SAMPLED_CONTROLS)
    assert [(e.trial, e.verdict, e.invalid) for e in heard.controls.healthy if e.verdict != "valid"] == []


def test_ctrl_c_ends_every_lane_and_all_that_it_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "points", "after-claim", "--lanes", "2", "--runs-dir", str(tmp_path)]
    quiet: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    series = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, **quiet)
    try:
        assert until(lambda: len(family(series.pid)) >= 20, 60), "two lanes with stores and workers never came up"
        started = family(series.pid)
        series.send_signal(signal.SIGINT)
        text = series.communicate(timeout=120)[0]
    finally:
        series.kill()
        series.wait(10)
    assert series.returncode == 130, text
    assert until(lambda: not started & living(), 10), started & living()


def test_a_lane_that_does_not_answer_is_stopped_and_its_trial_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "TRIAL_SECONDS", 0.2)
    before, ends = family(os.getpid()), list[Ended]()
    run_all([Trial("calm", runs=str(tmp_path))], 1, ends.append)
    assert [(each.verdict, each.path) for each in ends] == [("the harness failed", None)]
    assert "no end within 0.2 s" in str(ends[0].error)
    assert until(lambda: not (family(os.getpid()) - before) & living(), 10)


def test_without_a_lane_every_trial_has_failed_and_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    ends: list[Ended] = []
    run_all([Trial("calm"), Trial("burst")], 2, ends.append)
    assert [each.verdict for each in ends] == ["the harness failed"] * 2
    assert "no-python" in str(ends[0].error)


def living() -> set[int]:
    listing = ["ps", "-A", "-o", "pid=,stat="]
    table = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=True).stdout
    return {int(pid) for pid, state in map(str.split, table.splitlines()) if not state.startswith("Z")}


def family(ancestor: int) -> set[int]:
    """Everything that a process started, and what that started."""
    listing = ["ps", "-A", "-o", "pid=,ppid="]
    table = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, table.splitlines())}
    found, last = {ancestor}, 0
    while len(found) > last:
        last = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found - {ancestor}


def test_every_control_names_a_scenario_and_is_bounded() -> None:
    for control in every().values():
        assert control.scenario in SCENARIOS | UNLISTED
        assert 1 <= control.runs <= 5
        assert control.breaks or control.is_harmless


def test_a_control_that_is_not_caught_is_said_so_and_fails_the_series() -> None:
    series = Controls([find("no-fence"), find("noack")], first_seed=1, runs_dir="runs")
    first, harmless = series.trials()
    assert [more.seed for more in series.hear(Ended(first, "valid", "runs/x"))] == [2, 1]
    assert series.hear(Ended(Trial("worker-paused", 2, "no-fence"), "invalid", "runs/x", None, ("terminal",)))
    assert not series.hear(Ended(Trial("worker-paused", 3, "no-fence"), "unknown", "runs/x"))[1:]
    assert "NOT caught by fencing" in series.tried["no-fence"].result
    series.hear(Ended(harmless, "invalid", "runs/x", None, ("at-least-once",)))
    assert series.tried["noack"].result == "broke at-least-once"
    assert not series.as_expected


def test_a_run_without_a_verdict_is_no_catch() -> None:
    tried = Tried(find("no-fence"))
    tried.hear(Ended(Trial("worker-paused", 1, "no-fence"), "the harness failed", error="no port"))
    assert not tried.as_expected
    assert "no port" in tried.result
