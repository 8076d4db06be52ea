"""What becomes of jobs when the API dies, and when it is asked for more than the backlog may hold."""

from __future__ import annotations

from chaos.load.workload import Workload
from chaos.record.aim import API
from chaos.record.plan import Guards
from chaos.scenarios.scenario import Scenario, again, nothing, usual

SCENARIOS = (
    Scenario(
        name="api-killed",
        claim="a submit that the API's death left unanswered is one job however often it is sent again",
        faults=again("kill", API, 5.0, 0.5),
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
