"""What becomes of jobs when workers die, freeze, leave politely, or run a job that kills them."""

from __future__ import annotations

import random

from chaos.load.workload import Workload
from chaos.record.aim import worker
from chaos.record.plan import Guards, Planned
from chaos.scenarios.load import exactly_once
from chaos.scenarios.scenario import Scenario, nothing, rounds, usual


def _killed(rng: random.Random, seconds: float) -> list[Planned]:
    """Kill the two workers in turn while they are busy; only the other one can rescue, as the dead stay dead longer."""
    return [
        Planned(at + rng.uniform(0, 1), "kill", worker(1 + n % 2), 7.5, {"when_busy": True})
        for n, at in enumerate(rounds(seconds, 10.0))
    ]


def _paused(rng: random.Random, seconds: float) -> list[Planned]:
    """Freeze a busy worker for twice its lease: the other takes its jobs, then the zombie wakes with its outcomes."""
    return [
        Planned(at + rng.uniform(0, 1), "pause", worker(1 + n % 2), 10.0, {"when_busy": True})
        for n, at in enumerate(rounds(seconds, 13.0))
    ]


def _terminated(rng: random.Random, seconds: float) -> list[Planned]:
    """A rolling restart under load: SIGTERM, and a new process as soon as the old one has gone."""
    return [
        Planned(at + rng.uniform(0, 1), "term", worker(1 + n % 2), 0.5, {"when_busy": True})
        for n, at in enumerate(rounds(seconds, 6.0))
    ]


# Mostly long jobs, so that a crash finds company: what the poison would take to the dead letters with it.
POISONED = {"SLEEP": 40, "NOOP": 10, "FAIL": 2, "CRASH": 2}
BLOCKING = {"NOOP": 5, "BLOCK": 1}
FOOLING = {"RAISE": 4, "RAISE-PLAIN": 4, "NOOP": 4, "SLEEP": 2, "FAIL": 1}
ENDING = {"NOOP": 30, "SLEEP": 30, "END-LOOP": 3}  # few: not all workers at once

SCENARIOS = (
    Scenario(
        name="worker-killed",
        claim="a worker killed with kill -9 loses no job, and its jobs restart within lease + 1 s",
        faults=_killed,
        settings=usual(duration=30.0),
        guards=Guards(faults=2, redelivery=True),
    ),
    Scenario(
        name="worker-paused",
        claim="a worker frozen past its lease cannot overwrite what another worker settled",
        faults=_paused,
        settings=usual(duration=26.0),
        guards=Guards(faults=1, redelivery=True),
    ),
    Scenario(
        name="worker-terminated",
        claim="a rolling restart under load loses nothing and burns no attempt",
        faults=_terminated,
        settings=usual(duration=24.0, grace_seconds=1.0),
        guards=Guards(faults=3, redelivery=True),
    ),
    Scenario(
        name="worker-poisoned",
        claim="a job that kills every worker it meets ends in the DLQ once, and takes no other job with it",
        faults=nothing,  # the poison jobs are the faults
        settings=usual(duration=20.0, jobs=60, drain_seconds=120.0, supervised=True),
        load=lambda settings: Workload(settings, seconds=2.0, mix=POISONED, sleep_seconds=(2.0, 3.0)),
        guards=Guards(faults=2, overlap=False, redelivery=True),
    ),
    Scenario(
        name="worker-blocked",
        claim="a body that blocks its worker's event loop for longer than the lease runs once",
        faults=nothing,  # the blocking bodies are the faults
        settings=usual(duration=20.0, jobs=80, drain_seconds=120.0),
        load=lambda settings: Workload(
            settings, seconds=0.75 * settings.load_seconds, mix=BLOCKING, sleep_seconds=(6.0, 8.0)
        ),
        guards=Guards(faults=2, overlap=False),
    ),
    Scenario(
        name="worker-fooled",
        claim="whatever a body raises, an exception or not, is a failed attempt of its own job and costs no other one",
        faults=nothing,  # the bodies are the faults
        settings=usual(duration=10.0, jobs=150, concurrency=5),
        load=lambda settings: Workload(settings, seconds=0.5 * settings.load_seconds, mix=FOOLING),
        guards=Guards(faults=3, overlap=False),
        promises=(exactly_once,),
    ),
    Scenario(
        name="worker-useless",
        claim="a worker one of whose loops has ended gives up its lease, and others carry out its jobs in time",
        faults=nothing,  # the bodies are the faults
        settings=usual(duration=20.0, jobs=65, workers=3, drain_seconds=90.0, supervised=True),
        load=lambda settings: Workload(
            settings, seconds=0.6 * settings.load_seconds, mix=ENDING, sleep_seconds=(1.0, 3.0)
        ),
        guards=Guards(faults=2, overlap=False, redelivery=True),
    ),
    Scenario(
        name="workers-unlike",
        claim="workers that lack a handler neither bury nor hold up the jobs of the one that has it",
        faults=nothing,
        settings=usual(duration=10.0, jobs=100, workers=3, concurrency=4, unhandled_seconds=3.0, rare_on=worker(1)),
        load=lambda settings: Workload(settings, mix={"RARE": 1, "NOOP": 1}, sleep_seconds=(1.0, 2.0), bursts=2),
        guards=Guards(faults=0, overlap=False),
        promises=(exactly_once,),
    ),
)
