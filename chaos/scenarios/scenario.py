"""An experiment as a value: load, faults, and what must have happened for it to prove anything. Runs nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from chaos.judge.promise import Promise
from chaos.load.load import Load
from chaos.load.workload import Workload
from chaos.record.history import Guards, Planned, Settings

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
    promises: tuple[Promise, ...] = ()  # judged in this scenario alone, beside the common ones
    supervised: bool = False  # workers that SIGKILL themselves are started again
    sample_seconds: float = 0.25  # how often the stores are looked at; each look also sees what became final

    def schedule(self, seed: int, seconds: float) -> list[Planned]:
        """The same seed and length give the same faults at the same times."""
        return sorted(self.plan(random.Random(seed), seconds), key=lambda planned: planned.at)

    def at_pace(self, pace: float) -> Scenario:
        """The same experiment with every time in it, the lease and the back-off too, multiplied by `pace`."""
        if pace == 1.0:
            return self
        default, plan, load = Settings(), self.plan, self.load

        def scaled(rng: random.Random, seconds: float) -> list[Planned]:
            planned = plan(rng, seconds / pace)
            return [msgspec.structs.replace(p, at=p.at * pace, seconds=p.seconds * pace) for p in planned]

        def lighter(jobs: int, seconds: float) -> Load:
            whole = load(jobs, seconds)
            if not isinstance(whole, Workload):
                return whole
            low, high = whole.sleep_seconds
            return replace(whole, sleep_seconds=(low * pace, high * pace))

        times = {
            "SCHEDULER_LEASE_SECONDS": str(default.lease_seconds),
            "SCHEDULER_BACKOFF_BASE_SECONDS": str(default.backoff_base_seconds),
            **{name: value for name, value in self.environment.items() if name.endswith("_SECONDS")},
        }
        given = {name: str(float(value) * pace) for name, value in times.items()}
        return replace(
            self,
            plan=scaled,
            load=lighter,
            seconds=self.seconds * pace,
            jobs=max(1, round(self.jobs * pace)),
            steady_seconds=self.steady_seconds * pace,
            environment={**self.environment, **given},
        )


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
