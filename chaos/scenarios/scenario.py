"""An experiment as a value: load, faults, and what must have happened for it to prove anything. Runs nothing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from chaos.judge.promise import Promise
from chaos.load.load import Load
from chaos.load.workload import Workload
from chaos.record.aim import ROLES, Aim, link
from chaos.record.plan import Guards, Planned, Settings

Faults = Callable[[random.Random, float], list[Planned]]


def usual(**settings: Any) -> Settings:
    """What most scenarios run with, and what one has of its own; times at full pace."""
    return Settings(**{"jobs": 400, "concurrency": 20, **settings})


@dataclass(frozen=True, slots=True)
class Scenario:
    """`claim` is the promise under attack, in one sentence; `faults` makes the schedule for a length in seconds."""

    name: str
    claim: str
    faults: Faults
    settings: Settings
    load: Callable[[Settings], Load] = Workload
    guards: Guards = field(default_factory=Guards)
    promises: tuple[Promise, ...] = ()  # judged in this scenario alone, beside the common ones

    def schedule(self, seed: int, seconds: float, pace: float = 1.0) -> list[Planned]:
        """The same seed and length give the same faults at the same times; `seconds` and the times are at that pace."""
        planned = self.faults(random.Random(seed), seconds / pace)
        paced = [msgspec.structs.replace(p, at=p.at * pace, seconds=p.seconds * pace) for p in planned]
        return sorted(paced, key=lambda each: each.at)


def nothing(rng: random.Random, seconds: float) -> list[Planned]:
    """No fault from outside."""
    return []


def rounds(seconds: float, period: float) -> list[float]:
    """The starts of as many whole periods as fit, at least one."""
    return [n * period for n in range(max(1, int(seconds // period)))]


def again(fault: str, target: Aim, period: float, lasting: float = 0.0) -> Faults:
    """The fault once in every so many seconds, at a moment of its own, for `lasting` seconds."""
    return lambda rng, seconds: [
        Planned(at + rng.uniform(0, 1), fault, target, lasting) for at in rounds(seconds, period)
    ]


def everyone(fault: str, at: float, store: str, seconds: float, roles: Sequence[str] = ROLES[::-1]) -> list[Planned]:
    """The same fault on the links of workers and API to one store."""
    return [Planned(at, fault, link(role, store), seconds) for role in roles]
