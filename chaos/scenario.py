"""An experiment as a value: load, faults, and what must have happened for it to prove anything. Runs nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.history import Guards, Planned
from chaos.workload import Load, Workload

Plan = Callable[[random.Random, float], list[Planned]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`claim` is the promise under attack, in one sentence; `plan` makes the schedule for a length in seconds."""

    name: str
    claim: str
    plan: Plan
    seconds: float
    load: Callable[[int, float], Load] = Workload
    jobs: int = 400
    guards: Guards = field(default_factory=Guards)
    workers: int = 2
    concurrency: int = 20
    steady_seconds: float = 3.0
    drain_seconds: float = 60.0
    environment: dict[str, str] = field(default_factory=dict)
    supervised: bool = False  # workers that SIGKILL themselves are started again

    def schedule(self, seed: int, seconds: float) -> list[Planned]:
        """The same seed and length give the same faults at the same times."""
        return sorted(self.plan(random.Random(seed), seconds), key=lambda planned: planned.at)


def nothing(rng: random.Random, seconds: float) -> list[Planned]:
    """No fault from outside."""
    return []


def rounds(seconds: float, period: float) -> list[float]:
    """The starts of as many whole periods as fit, at least one."""
    return [n * period for n in range(max(1, int(seconds // period)))]


def both(role_faults: list[str], at: float, store: str, seconds: float, **arguments: object) -> list[Planned]:
    """The same fault on the links of API and workers to one store."""
    return [
        Planned(at, fault, f"{role}-{store}", seconds, dict(arguments))
        for fault in role_faults
        for role in ("worker", "api")
    ]
