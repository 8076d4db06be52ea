"""Faults drawn at random: the seed decides which, where, when and for how long; replay by seed or from the run."""

from __future__ import annotations

import random

from chaos.record.aim import LINKS, POSTGRES, REDIS, worker
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, usual

LINK_FAULTS = ("partition.hold", "partition.drop", "ack_lost", "ack_lost.close", "send_lost", "refuse", "reset")
GAP_SECONDS = (1.0, 4.0)


def draw(rng: random.Random, seconds: float) -> list[Planned]:
    """One fault after another until the time is full; two may overlap, but never on one target."""
    planned: list[Planned] = []
    free_at: dict[str, float] = {}
    at = rng.uniform(0, 1)
    while at < seconds:
        one = _one(rng, at)
        if free_at.get(one.target, 0.0) <= at:
            planned.append(one)
            free_at[one.target] = at + one.seconds + 2.0
        at += rng.uniform(*GAP_SECONDS)
    return planned


def _one(rng: random.Random, at: float) -> Planned:
    family = rng.choices(("link", "worker", "flush", "brownout", "store"), (5, 4, 1, 1, 1))[0]
    match family:
        case "link":
            return Planned(at, rng.choice(LINK_FAULTS), rng.choice(LINKS), rng.uniform(0.5, 6.0))
        case "worker":
            fault = rng.choice(("kill", "pause", "term"))
            return Planned(at, fault, worker(rng.randint(1, 3)), rng.uniform(1.0, 9.0), {"when_busy": True})
        case "flush":
            return Planned(at, "flush", REDIS, 0.0)
        case "brownout":
            latency = {"latency_ms": rng.choice((20, 100, 400))}
            return Planned(at, "brownout", rng.choice(LINKS), rng.uniform(1.0, 6.0), latency)
        case _:
            return Planned(at, "kill", rng.choice((REDIS, POSTGRES)), rng.uniform(0.5, 3.0))


RANDOM = Scenario(
    name="random",
    claim="every promise holds under faults that nobody chose",
    faults=draw,
    settings=usual(duration=40.0, jobs=500, workers=3, drain_seconds=120.0),
    guards=Guards(faults=3),
)

# What a property test generates: the schedule comes from outside, and may hold nothing at all.
GENERATED = Scenario(
    name="generated",
    claim="every promise holds under faults that a property test made up",
    faults=draw,
    settings=usual(duration=12.0, jobs=200, steady_seconds=0.0, drain_seconds=90.0),
    guards=Guards(faults=0, overlap=False),
)
