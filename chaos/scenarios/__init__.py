"""Every named experiment, one file a family."""

from __future__ import annotations

from chaos.errors import UsageError
from chaos.scenarios import api, chance, demo, ends, load, points, postgres, redis, workers
from chaos.scenarios.scenario import Scenario

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario for family in (workers, ends, redis, postgres, api, load) for scenario in family.SCENARIOS
}
POINTS: dict[str, Scenario] = {scenario.name: scenario for scenario in points.SCENARIOS}
UNLISTED = {scenario.name: scenario for scenario in (demo.DEMO, chance.RANDOM, chance.GENERATED, *points.SCENARIOS)}


def find(name: str) -> Scenario:
    """The scenario of that name. Raises UsageError with the nearest known name."""
    known = SCENARIOS | UNLISTED
    if name not in known:
        raise UsageError.unknown("scenario", name, known, "`chaos list`")
    return known[name]
