"""What becomes of jobs under load alone: the control without faults, and a burst while a worker dies."""

from __future__ import annotations

import random

from chaos.load.workload import Workload
from chaos.record.aim import worker
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, nothing, usual


def _one_kill(rng: random.Random, _: float) -> list[Planned]:
    return [Planned(rng.uniform(0, 0.5), "kill", worker(1), 7.5, {"when_busy": True})]


SCENARIOS = (
    Scenario(
        name="calm",
        claim="without any fault every job runs exactly once; what this run shows is the harness's own noise",
        faults=nothing,
        settings=usual(duration=10.0, jobs=300),
        guards=Guards(faults=0, overlap=False),
    ),
    Scenario(
        name="burst",
        claim="2,000 jobs at once are all carried out though a worker dies in the middle",
        faults=_one_kill,
        settings=usual(duration=10.0, jobs=2_000, steady_seconds=1.0),
        load=lambda settings: Workload(settings, seconds=1.0, sleep_seconds=(0.1, 0.5)),
        guards=Guards(faults=1, redelivery=True),
    ),
)
