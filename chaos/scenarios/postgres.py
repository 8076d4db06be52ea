"""What becomes of jobs when the record itself crashes or cannot be reached."""

from __future__ import annotations

import itertools
import random

from chaos.load.workload import Workload
from chaos.record.aim import POSTGRES
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, again, everyone, rounds, usual


def _cut(rng: random.Random, seconds: float) -> list[Planned]:
    """Cut everyone off, for less and for more than a lease: nobody can renew, and nobody is dead for that."""
    planned: list[Planned] = []
    for n, start in enumerate(rounds(seconds, 12.0)):
        fault, length = (("partition.drop", 3.0), ("ack_lost", 3.0), ("partition.hold", 8.0))[n % 3]
        planned += everyone(fault, start + rng.uniform(0, 1), POSTGRES, length)
    return planned


def _reconfigured(rng: random.Random, seconds: float) -> list[Planned]:
    """Settings that no promise outlives, one after another, each before a crash, after which all sessions are new."""
    settings = [*WEAK.items()]
    rng.shuffle(settings)
    planned: list[Planned] = []
    for start, (name, value) in zip(rounds(seconds, 8.0), itertools.cycle(settings), strict=False):
        planned.append(Planned(start + rng.uniform(0, 1), "configure", POSTGRES, 0.0, {"name": name, "value": value}))
        planned.append(Planned(start + 3.0 + rng.uniform(0, 1), "kill", POSTGRES, 1.0))
    return planned


WEAK = {
    "synchronous_commit": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
}

SCENARIOS = (
    Scenario(
        name="postgres-restarted",
        claim="a crash of PostgreSQL loses no accepted job and overwrites no final status",
        faults=again("kill", POSTGRES, 10.0, 2.0),
        settings=usual(duration=20.0, sample_seconds=0.05, drain_seconds=90.0),
        # In crowds, with nothing submitted between them: no insert's flush carries what was settled to the disk.
        load=lambda settings: Workload(settings, bursts=4),
        guards=Guards(faults=2),
    ),
    Scenario(
        name="postgres-cut",
        claim="requests cut off from PostgreSQL are safe to repeat: one key, one job, nothing lost",
        faults=_cut,
        settings=usual(duration=36.0, drain_seconds=90.0),
        guards=Guards(faults=3),
    ),
    Scenario(
        name="postgres-settings",
        claim="what a database is configured to makes no commit weaker, no session read-only and no isolation stricter",
        faults=_reconfigured,
        settings=usual(duration=24.0, sample_seconds=0.05, drain_seconds=90.0),
        load=lambda settings: Workload(settings, bursts=6),
        guards=Guards(faults=4),
    ),
    Scenario(
        name="postgres-clock",
        claim="a step of PostgreSQL's clock past every lease takes no job from a living worker",
        faults=again("clock", POSTGRES, 5.0),
        settings=usual(duration=20.0, jobs=200),
        load=lambda settings: Workload(settings, mix={"SLEEP": 3, "NOOP": 1}, sleep_seconds=(2.0, 5.0)),
        guards=Guards(faults=2),
    ),
)
