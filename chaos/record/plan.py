"""How a run is made, as one value: a plan, which is the head of manifest.json, and the manifest that grows from it.

Stack, load, experiment, judge and replay read it; nobody resolves anything a second time. Every time is in seconds and
already at the run's pace.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from chaos.errors import RunUnreadable
from chaos.record.aim import Aim

FORMAT = 2  # of what is written now; 1 left out settings, and where a build was broken


class Planned(msgspec.Struct, frozen=True):
    """One line of a schedule: `at` seconds into the inject phase `fault` hits `target` for `seconds`."""

    at: float
    fault: str
    target: Aim
    seconds: float
    arguments: dict[str, Any] = {}


class Armed(msgspec.Struct, frozen=True):
    """The place between two steps where a process, the `nth` time it comes there, suffers `fault`."""

    point: str
    fault: str
    nth: int = 1


class Phase(msgspec.Struct, frozen=True):
    """A part of the run between two moments (monotonic nanoseconds)."""

    name: Literal["steady", "inject", "heal", "drain", "judge"]
    start_ns: int
    end_ns: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that has a number: the queue's settings (defaults: the queue's own), the load and the phases."""

    lease_seconds: float = 5.0
    max_attempts: int = 4
    backoff_base_seconds: float = 2.0
    backoff_factor: float = 2.0
    grace_seconds: float = 10.0
    max_backlog: int = 1_000_000
    concurrency: int = 100
    unhandled_seconds: float = 60.0
    retention_seconds: float = 7 * 86_400.0
    workers: int = 2
    jobs: int = 0
    steady_seconds: float = 3.0
    duration: float = 0.0  # of the inject phase
    drain_seconds: float = 60.0  # at most
    sample_seconds: float = 0.25  # how often the stores are looked at; each look also sees what became final
    rare_on: str = ""  # the one worker that has a handler for RARE; empty: each has one
    replica: bool = False  # Redis has one, and one address leads to whichever is the master
    supervised: bool = False  # workers that a job kills, or makes give up, are started again
    pace: float = 1.0  # what every time of the scenario was multiplied by
    control: str | None = None  # the broken build
    control_at: str = ""  # `module:name`, where a process that is to be broken finds it
    control_on: str = ""  # where the build is broken: a process, a role, `*` for all, or the `client` that submits

    def broken_build(self, process: Aim) -> str | None:
        """Where this process finds the control that is to break it."""
        return self.control_at if self.control_on in {process, process.role, "*"} else None

    @property
    def load_seconds(self) -> float:
        """How long jobs go on arriving: before the faults and among them."""
        return self.steady_seconds + self.duration

    @property
    def keyed(self) -> bool:
        """Whether clients send their idempotency keys; a broken client forgets them."""
        return self.control_on != "client"


class Guards(msgspec.Struct, frozen=True):
    """What must have happened for the run to prove anything."""

    faults: int = 1
    overlap: bool = True
    redelivery: bool = False


class Plan(msgspec.Struct, frozen=True):
    """A scenario and the caller's options, resolved: all that has to be known to carry it out, or out again."""

    scenario: str
    seed: int
    settings: Settings = Settings()
    schedule: list[Planned] = []
    guards: Guards = Guards()
    format: int = 1

    @property
    def armed(self) -> dict[tuple[Aim, int], Armed]:
        """(process, n-th start of it) → the place that the schedule wants armed there."""
        return {
            (each.target, int(each.arguments.get("start", 1))): Armed(
                str(each.arguments["point"]), each.fault, int(each.arguments.get("nth", 1))
            )
            for each in self.schedule
            if "point" in each.arguments
        }


class Manifest(Plan, frozen=True, kw_only=True):
    """A plan and how it was carried out; `wall_origin` and `mono_origin_ns` name one instant on both clocks."""

    run: str
    started_at: str = ""
    finished_at: str = ""
    wall_origin: float = 0.0
    mono_origin_ns: int = 0
    versions: dict[str, str] = {}
    phases: list[Phase] = []
    machine: dict[str, Any] = {}
    commit: str | None = None
    troubles: list[str] = []
    deaths: list[str] = []

    @property
    def plan(self) -> Plan:
        """What to carry out again. Raises RunUnreadable for a run of an older version, which did not keep all of it."""
        if self.format < FORMAT:
            raise RunUnreadable(
                f"{self.run} was made by an older version, which kept no whole plan; it can be judged and reported, "
                f"but not replayed: chaos run {self.scenario} --seed {self.seed}"
            )
        return Plan(*(getattr(self, name) for name in Plan.__struct_fields__))
