"""The claims register: every promise has experiments, checks and controls that exist, faults enough, fresh tables."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import msgspec
import pytest

from chaos.controls.control import every
from chaos.errors import UsageError
from chaos.judge import PROMISES
from chaos.record.plan import Manifest
from chaos.record.runs import Folder
from chaos.record.verdict import Check, Judgement
from chaos.scenarios import POINTS, SCENARIOS, UNLISTED
from chaos.series import register
from chaos.series.campaign import Campaign, Tried
from chaos.series.register import REGISTER, ROOT, TABLES, Claim, Register, load, rendered, with_results

LEAST_FAULTS, LEAST_RUNS = 60, 10
CONTROLS = {name: control for name, control in every().items() if not control.is_harmless}
CHECKS = {each.name for each in PROMISES}
claims = load()
names = [claim.name for claim in claims.promises]


@pytest.fixture(params=claims.promises, ids=names)
def claim(request: pytest.FixtureRequest) -> Claim:
    found: Claim = request.param
    return found


def test_every_promise_names_experiments_that_exist(claim: Claim) -> None:
    known = [*SCENARIOS, *UNLISTED]
    for pattern in claim.scenarios:
        alone = msgspec.structs.replace(claim, scenarios=[pattern])
        assert any(alone.is_attacked_by(name) for name in known), pattern
    assert claim.scenarios
    assert claim.tests
    for test in claim.tests:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}, (
            test
        )


def test_every_promise_is_judged_by_checks_that_its_controls_break(claim: Claim) -> None:
    own = {each.name for name in SCENARIOS if claim.is_attacked_by(name) for each in SCENARIOS[name].promises}
    assert set(claim.checks) <= CHECKS | own
    assert claim.controls
    for name in claim.controls:
        assert set(CONTROLS[name].breaks) & set(claim.checks), f"{name} breaks no check of {claim.name}"
    broken = {check for name in claim.controls for check in CONTROLS[name].breaks}
    assert set(claim.checks) & broken


def test_every_promise_was_attacked_often_enough_and_held(claim: Claim) -> None:
    assert claim.result, "never run: `chaos prove`"
    # What is attacked without any fault (how work is shared) counts runs.
    faulty = [name for name in (*SCENARIOS, *UNLISTED) if claim.is_attacked_by(name)]
    if any((SCENARIOS | UNLISTED)[name].guards.faults for name in faulty):
        assert claim.result.faults >= LEAST_FAULTS
    else:
        assert claim.result.runs >= LEAST_RUNS
    assert (claim.result.violations, claim.result.lost) == (0, 0)
    assert "unexplained" not in claim.result.duplicated


def test_every_control_was_caught_and_every_harmless_fault_lost_nothing() -> None:
    rows = {row.name: row for row in claims.controls}
    assert set(rows) == set(every())
    assert [row.name for row in claims.controls if not row.as_expected] == []


def test_every_control_and_every_check_stands_behind_some_promise() -> None:
    used = {name for each in claims.promises for name in each.controls}
    assert set(CONTROLS) - used == set()
    judging = {check for each in claims.promises for check in each.checks}
    assert CHECKS - judging == set()


def test_every_check_of_a_scenarios_own_has_a_control_that_it_must_catch_there() -> None:
    for name, scenario in SCENARIOS.items():
        broken = {check for each in CONTROLS.values() if each.scenario == name for check in each.breaks}
        assert {each.name for each in scenario.promises} <= broken


@pytest.mark.parametrize("document", TABLES, ids=lambda path: path.name)
def test_the_tables_are_those_that_the_register_makes(document: Path) -> None:
    assert document.read_text() == rendered(document.read_text(), claims, document), "stale: `chaos prove` writes them"


def test_a_table_without_its_place_is_an_error_that_says_what_to_put_where() -> None:
    with pytest.raises(UsageError, match=r"README\.md has no place for the table 'promises'"):
        rendered("nothing here", claims, ROOT / "README.md")


def test_a_damaged_register_is_a_usage_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "guarantees.yaml"
    path.write_text(REGISTER.read_text().replace("sentence:", "sentense:", 1))
    with pytest.raises(UsageError, match="sentence"):
        load(path)


def judged_run(
    path: Path,
    scenario: str,
    *,
    seed: int,
    faults: int,
    causes: dict[str, int] | None,  # None: the check could not be judged
    unfinished: int = 0,
    lost: int = 0,
) -> Path:
    """Write manifest and verdict only: what a register reads."""
    path.mkdir()
    folder = Folder(path)
    folder.write(folder.manifest, Manifest(run=path.name, scenario=scenario, seed=seed, started_at=f"2026-01-0{seed}"))
    checks = [
        Check("terminal", "invalid" if unfinished else "valid", "", {"count": unfinished}),
        Check("repetition", "unknown" if causes is None else "valid", "", {} if causes is None else {"causes": causes}),
        Check("at-least-once", "invalid" if lost else "valid", "", {"lost": [f"job-{n}" for n in range(lost)]}),
    ]
    folder.write(folder.verdict, Judgement("invalid" if lost else "valid", checks, faults, 100, ""))
    return path


def test_results_are_the_sums_over_the_runs_that_attack_the_promise(tmp_path: Path) -> None:
    claim = Claim("p", "It holds", ["worker-*"], ["terminal", "repetition"], ["no-fence"])
    runs = [
        judged_run(tmp_path / "a", "worker-killed", seed=1, faults=40, causes={"crash": 3, "retry": 9}),
        judged_run(tmp_path / "b", "worker-paused", seed=4, faults=20, causes={"lease lost": 2}, unfinished=2, lost=1),
        judged_run(tmp_path / "c", "redis-flushed", seed=9, faults=500, causes={"crash": 1}, unfinished=5, lost=5),
        judged_run(tmp_path / "d", "worker-killed", seed=2, faults=1, causes=None),
    ]
    tried = Tried(CONTROLS["no-fence"], {"fencing": 1}, [1])
    found = with_results(Register([claim]), [str(path) for path in runs], [tried])
    [held] = found.promises
    assert held.result == register.Result(3, 61, 2, 1, {"crash": 3, "lease lost": 2}, 0.0479, "1 to 4")
    assert [(row.name, row.as_expected) for row in found.controls] == [("no-fence", True)]
    assert with_results(found, [], []) == found


def test_a_campaign_runs_what_attacks_a_promise_and_each_crash_point_once() -> None:
    series = Campaign(claims.attacks, rounds=3, only="", first_seed=5, runs_dir="runs")
    trials = series.trials()
    own = [each for each in trials if each.control is None]
    seeds = {name: [each.seed for each in own if each.scenario == name] for name in (*SCENARIOS, *POINTS)}
    assert seeds["worker-killed"] == [5, 6, 7]
    assert all(seeds[name] == [5] for name in POINTS)
    assert {each.control for each in trials if each.control} == set(every())
    assert len(own) == len(set(own))
    assert not any(first == second for first, second in itertools.pairwise(own))


def test_a_part_renews_its_own_rows_and_says_of_which_commit_they_are(tmp_path: Path) -> None:
    first = Claim("p", "It holds", ["worker-*"], ["terminal"], ["no-fence"])
    other = Claim("q", "It holds too", ["worker-*"], ["terminal"], ["no-fence"])
    whole = Register([first, other])
    run = judged_run(tmp_path / "a", "worker-killed", seed=1, faults=40, causes={})
    found = register.with_part(whole, whole.only(["q"]), [str(run)], [])
    assert found.promises[0] == first
    assert found.promises[1].result
    assert found.measured is None
    with pytest.raises(UsageError, match="did you mean 'terminal-x'"):
        Register([msgspec.structs.replace(first, name="terminal-x")]).only(["terminal-y"])
