"""A scenario is a value: its seed decides everything, and its pace changes times and nothing else."""

from __future__ import annotations

import pytest

from chaos.load.workload import Workload
from chaos.scenarios import SCENARIOS, UNLISTED, find
from chaos.scenarios.scenario import Scenario

EVERY = [*SCENARIOS.values(), *UNLISTED.values()]


@pytest.mark.parametrize("scenario", EVERY, ids=lambda each: each.name)
def test_one_seed_is_one_schedule(scenario: Scenario) -> None:
    assert scenario.schedule(5, scenario.seconds) == scenario.schedule(5, scenario.seconds)


@pytest.mark.parametrize("scenario", EVERY, ids=lambda each: each.name)
def test_pace_multiplies_the_times_of_a_schedule_and_leaves_its_faults(scenario: Scenario) -> None:
    quick = scenario.at_pace(0.4)
    whole, hurried = scenario.schedule(5, scenario.seconds), quick.schedule(5, quick.seconds)
    assert [(p.fault, p.target, p.arguments) for p in hurried] == [(p.fault, p.target, p.arguments) for p in whole]
    assert [p.at for p in hurried] == pytest.approx([p.at * 0.4 for p in whole])
    assert [p.seconds for p in hurried] == pytest.approx([p.seconds * 0.4 for p in whole])


def test_pace_shortens_the_lease_the_back_off_and_every_other_time_of_the_environment() -> None:
    quick = find("worker-terminated").at_pace(0.4)
    assert quick.environment == {
        "SCHEDULER_LEASE_SECONDS": "2.0",
        "SCHEDULER_BACKOFF_BASE_SECONDS": "0.8",
        "SCHEDULER_GRACE_SECONDS": "0.4",
    }
    assert find("overload").at_pace(0.4).environment["SCHEDULER_MAX_BACKLOG"] == "20"


def test_pace_shortens_the_bodies_of_jobs() -> None:
    load = find("worker-blocked").at_pace(0.5).load(10, 5.0)
    assert isinstance(load, Workload)
    assert load.sleep_seconds == (3.0, 4.0)


def test_full_pace_is_the_scenario_itself() -> None:
    assert find("worker-killed").at_pace(1.0) is find("worker-killed")


@pytest.mark.parametrize("jobs", [3, 5, 40])
def test_the_same_seed_submits_the_same_jobs_and_every_type_of_the_mix_is_among_them(jobs: int) -> None:
    load = Workload(jobs, 10.0)
    arrivals = load.arrivals(7, "http://sink")
    assert arrivals == load.arrivals(7, "http://sink")
    assert arrivals != load.arrivals(8, "http://sink")
    assert len({each.type for each in arrivals}) == min(jobs, len(load.mix))
    assert len({each.key for each in arrivals}) == jobs


def test_bursts_are_crowds_evenly_spread() -> None:
    times = {each.at for each in Workload(200, 10.0, bursts=4).arrivals(1, "http://sink")}
    assert times == {0.0, 2.5, 5.0, 7.5}
