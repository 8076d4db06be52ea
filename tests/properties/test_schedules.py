"""Generated faults against the whole system: a schedule is plain data, run once on real servers, judged by its history.

Derandomized and few by default; `make properties` runs many new ones. A schedule that breaks a promise is kept as a
run folder under runs/, to be looked at (`chaos report`) and run again (`chaos replay`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from chaos.console import Progress
from chaos.experiment import carry_out
from chaos.planning import Options, resolve
from chaos.rack.servers import Servers
from chaos.record.aim import API, LINKS, POSTGRES, REDIS, worker
from chaos.record.plan import Planned
from chaos.scenarios import find
from chaos.scenarios.chance import LINK_FAULTS

pytestmark = [pytest.mark.properties, pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(3_600)]

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
PACE = 0.4
WORKERS = (worker(1), worker(2))
FEW = (Phase.explicit, Phase.generate)  # each step of shrinking would be a run of its own
times = st.floats(0, 4).map(lambda seconds: round(seconds, 2))


def lasting(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most).map(lambda seconds: round(seconds, 2))


BUSY = st.just({"when_busy": True})
deaths = st.builds(Planned, times, st.sampled_from(["kill", "term"]), st.sampled_from(WORKERS), lasting(0.1, 4), BUSY)
pauses = st.builds(Planned, times, st.just("pause"), st.sampled_from(WORKERS), lasting(0.2, 5), BUSY)
cuts = st.builds(Planned, times, st.sampled_from(LINK_FAULTS), st.sampled_from(LINKS), lasting(0.2, 4))
wipes = st.builds(Planned, times, st.just("flush"), st.just(REDIS), st.just(0.0))
crashes = st.builds(
    Planned, times, st.just("kill"), st.sampled_from([REDIS, POSTGRES, API]), lasting(0.1, 1.5), st.just({})
)
schedules = st.lists(st.one_of(deaths, pauses, cuts, wipes, crashes), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers() as own:
        yield own


@settings(max_examples=300 if LONG else 5, phases=tuple(Phase) if LONG else FEW)
@given(schedule=schedules, seed=st.integers(0, 2**16))
def test_no_schedule_of_faults_breaks_a_promise(
    servers: Servers, tmp_path: Path, schedule: list[Planned], seed: int
) -> None:
    """At least once, one final status, attempts bounded, none early, DLQ exact, drained: every check of the harness."""
    options = Options(seed=seed, pace=PACE, schedule=sorted(schedule, key=lambda p: p.at))
    with Progress(Console(quiet=True)) as silent:
        result = carry_out(resolve(find("generated"), options), silent, servers, runs_dir=tmp_path)
    if result.judgement.verdict != "valid":
        kept = ROOT / "runs" / result.folder.path.name
        shutil.copytree(result.folder.path, kept, dirs_exist_ok=True)
        pytest.fail(f"{result.judgement.sentence} Kept: chaos report runs/{kept.name}, chaos replay runs/{kept.name}")
