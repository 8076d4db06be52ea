"""A process dies, stops or loses a reply between two named steps: one scenario for every crash point, every way, and
a stack of one worker or of two. `kill@worker.after-claim-2` is the worker's death between claim and run, of two.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from chaos.faults.processes import AT_POINT
from chaos.load.workload import Workload
from chaos.record.aim import API, REDIS, Aim, worker
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, usual
from scheduler.testing import POINTS, Point

LEASE = usual().lease_seconds
MIX = {"NOOP": 45, "SLEEP": 25, "FLAKY": 20, "WEBHOOK": 8, "FAIL": 2}


@dataclass(frozen=True, slots=True)
class Case:
    """What happens where. As a plan: faults that make the point come up (a death, a lost index) come first."""

    point: Point
    fault: str
    workers: int

    @property
    def name(self) -> str:
        """As `chaos points` lists it."""
        return f"{self.fault}@{self.point.name}-{self.workers}"

    @property
    def part(self) -> str:
        """The part of the scheduler that the point lies in."""
        return self.point.name.partition(".")[0]

    def __call__(self, rng: random.Random, seconds: float) -> list[Planned]:
        match self.part:
            case "rescuer" if self.workers == 1:  # the only worker is killed, and its replacement is armed
                death = Planned(0.5, "kill", worker(1), 0.5, {"when_busy": True})
                return [death, self._planned(worker(1), at=2.0, start=2)]
            case "rescuer":
                death = Planned(0.5, "kill", worker(2), 2 * LEASE, {"when_busy": True})
                return [death, self._planned(worker(1))]
            case "reconciler":
                flushes = [Planned(0.5 + 1.5 * n, "flush", REDIS, 0.0) for n in range(12)]
                return [*flushes, self._planned(worker(1))]
            case part:
                return [self._planned(API if part == "api" else worker(1), nth=rng.randint(1, 3))]

    def _planned(self, target: Aim, *, at: float = 0.0, nth: int = 1, start: int = 1) -> Planned:
        """A stop outlasts the lease; so does a death, where another worker is there to notice it."""
        others = self.workers > 1 and target != API
        lasting = self.fault == "pause" or others
        seconds = 0.0 if self.fault == "reply_lost" else 1.5 * LEASE if lasting else 1.0
        return Planned(at, self.fault, target, seconds, {"point": self.point.name, "nth": nth, "start": start})


def _scenario(case: Case) -> Scenario:
    return Scenario(
        name=case.name,
        claim=f"nothing is lost when a process of {case.workers} meets {case.fault} at {case.point.name}",
        faults=case,
        settings=usual(
            duration=20.0 if case.part == "reconciler" else 10.0,
            jobs=150,
            workers=case.workers,
            steady_seconds=0.0,
            max_attempts=3,
        ),
        load=lambda settings: Workload(settings, mix=MIX, sleep_seconds=(0.5, 2.0)),
        guards=Guards(faults=1, overlap=False),
    )


SCENARIOS = tuple(
    _scenario(Case(point, fault, workers))
    for workers in (1, 2)
    for point in POINTS.values()
    for fault in AT_POINT
    if fault != "reply_lost" or point.may_lose
)
