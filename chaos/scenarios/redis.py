"""What becomes of jobs when Redis cannot be reached, forgets everything, or does not say what it did."""

from __future__ import annotations

import random

from chaos.record.aim import REDIS
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, again, everyone, rounds, usual

CUT_SECONDS = 5.0  # as long as the default lease


def _partitioned(rng: random.Random, seconds: float) -> list[Planned]:
    """Cuts of 5 s, held and dropped in turn; every second one also takes the API's link."""
    planned: list[Planned] = []
    for n, start in enumerate(rounds(seconds, 8.0)):
        at, fault = start + rng.uniform(0, 1), ("partition.hold", "partition.drop")[n % 2]
        planned += everyone(fault, at, REDIS, CUT_SECONDS, ("worker", "api") if n % 2 else ("worker",))
    return planned


def _unanswered(rng: random.Random, seconds: float) -> list[Planned]:
    """Redis does what it is told but its replies are lost, in silence or with a closed connection."""
    planned: list[Planned] = []
    for n, start in enumerate(rounds(seconds, 6.0)):
        fault = ("ack_lost", "ack_lost.close", "torn_reply")[n % 3]
        planned += everyone(fault, start + rng.uniform(0, 1), REDIS, 4.0)
    return planned


def _littered(rng: random.Random, seconds: float) -> list[Planned]:
    """Five kinds of garbage at a time, one after the other: every kind has its turn within a run of usual length."""
    first = rng.randrange(1_000)
    return [
        Planned(at + rng.uniform(0, 0.2), "redis-garbage", REDIS, 0.0, {"nth": first + 5 * n, "kinds": 5})
        for n, at in enumerate(rounds(seconds, 3.0))
    ]


SCENARIOS = (
    Scenario(
        name="redis-partition",
        claim="live workers cut from Redis for 5 s neither lose nor repeat a job",
        faults=_partitioned,
        settings=usual(duration=24.0),
        guards=Guards(faults=2),
    ),
    Scenario(
        name="redis-flushed",
        claim="after FLUSHALL every job still reaches its final status, and the DLQ is exact again",
        faults=again("flush", REDIS, 5.0),
        settings=usual(duration=20.0),
        guards=Guards(faults=2),
    ),
    Scenario(
        name="redis-ack-lost",
        claim="commands that Redis ran but never confirmed neither lose nor repeat a job",
        faults=_unanswered,
        settings=usual(duration=18.0),
        guards=Guards(faults=2),
    ),
    Scenario(
        name="redis-restarted",
        claim="a crash of the Redis server neither loses nor repeats a job",
        faults=again("kill", REDIS, 8.0, 2.0),
        settings=usual(duration=16.0),
        guards=Guards(faults=2),
    ),
    Scenario(
        name="redis-demoted",
        claim="a Redis that takes no writes delays jobs, and neither loses nor repeats one",
        faults=again("demote", REDIS, 8.0, 4.0),
        settings=usual(duration=24.0),
        guards=Guards(faults=2),
    ),
    Scenario(
        name="redis-garbage",
        claim="whatever others write under the queue's keys in Redis stops no worker and loses no job",
        faults=_littered,
        settings=usual(duration=24.0, workers=3),
        guards=Guards(faults=3),
    ),
    Scenario(
        name="redis-failover",
        claim="a replica of Redis, stale or not, that takes over behind the same address loses and repeats nothing",
        # An odd number: at last the master is not the server that the first connections were made to.
        faults=again("failover", REDIS, 5.0, 3.0),
        settings=usual(duration=25.0, replica=True),
        guards=Guards(faults=2),
    ),
)
