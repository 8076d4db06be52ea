"""What the report says about a run can be relied on: its command makes the same plan again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import chaos.__main__ as command_line
from chaos.planning import Options, resolve
from chaos.record.plan import Manifest, Plan
from chaos.scenarios import find
from notebooks.analysis.tables import reproduce


@pytest.mark.parametrize(
    ("scenario", "options"),
    [
        ("worker-killed", Options(seed=3)),
        ("random", Options(seed=4, pace=0.3)),
        ("redis-flushed", Options(seed=5, jobs=17, seconds=9.5, pace=0.4, control="reconciler-off")),
    ],
)
def test_the_command_of_a_report_makes_the_plan_of_its_run(
    scenario: str, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, made = resolve(find(scenario), options), list[Plan]()

    def note(plan: Plan, runs_dir: object, **_: Any) -> str:
        made.append(plan)
        return "valid"

    monkeypatch.setattr(command_line, "_judged", note)
    frames: Any = SimpleNamespace(manifest=Manifest(*msgspec.structs.astuple(plan), run="r"))
    done = CliRunner().invoke(command_line.app, reproduce(frames).text.split()[1:])
    assert done.exit_code == 0, done.output
    assert made == [plan]
