"""What becomes of jobs when the API dies, and when it is asked for more than the backlog may hold."""

from __future__ import annotations

import random

from chaos.load.workload import Workload
from chaos.record.aim import API
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, nothing, rounds, usual


def _killed(rng: random.Random, seconds: float) -> list[Planned]:
    """Kill the API under load again and again: what was not answered is sent again, with its key."""
    return [Planned(at + rng.uniform(0, 1), "kill", API, 0.5) for at in rounds(seconds, 5.0)]


SCENARIOS = (
    Scenario(
        name="api-killed",
        claim="a submit that the API's death left unanswered is one job however often it is sent again",
        faults=_killed,
        settings=usual(duration=20.0, jobs=1_200),
        load=lambda settings: Workload(settings, bursts=40),
        guards=Guards(faults=3),
    ),
    Scenario(
        name="overload",
        claim="what the backlog cannot hold is refused with 429, and nothing that was accepted is dropped",
        faults=nothing,  # the bursts are the faults
        settings=usual(duration=20.0, jobs=1_000, concurrency=5, max_backlog=20),
        load=lambda settings: Workload(settings, mix={"SLEEP": 1}, sleep_seconds=(0.2, 0.6), bursts=5),
        guards=Guards(faults=3, overlap=False),
    ),
)
