"""From a scenario and a caller's options to a plan: every name looked up, every time scaled, once and here."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from chaos.controls.control import find as find_control
from chaos.faults.catalogue import make_fault
from chaos.record.plan import FORMAT, Guards, Plan, Planned, Settings
from chaos.scenarios.scenario import Scenario

PACED = ("duration", "steady_seconds", "lease_seconds", "backoff_base_seconds", "grace_seconds")


@dataclass(frozen=True, slots=True)
class Options:
    """What may differ between two runs of one scenario; None: as the scenario has it.

    `pace` below 1 is the same experiment in less time, with fewer jobs, a shorter lease and back-off; `jobs` and
    `seconds` (of faults) are taken as they are, and so is a `schedule`.
    """

    seed: int = 1
    jobs: int | None = None
    seconds: float | None = None
    control: str | None = None
    pace: float = 1.0
    schedule: list[Planned] | None = None


def resolve(scenario: Scenario, options: Options) -> Plan:
    """The plan of one run. Raises UsageError for a control or a fault that does not exist."""
    settings = _settings(scenario.settings, options)
    schedule = options.schedule
    if schedule is None:
        schedule = scenario.schedule(options.seed, settings.duration, options.pace)
    for planned in schedule:
        make_fault(planned)
    guards = _guards(scenario.guards, schedule)
    return Plan(scenario.name, options.seed, settings, schedule, guards, FORMAT)


def _settings(usual: Settings, options: Options) -> Settings:
    """At the caller's pace, with the caller's numbers; a broken build that never drains is not waited for."""
    paced = {name: getattr(usual, name) * options.pace for name in PACED}
    paced["duration"] = options.seconds or paced["duration"]
    jobs = options.jobs or max(1, round(usual.jobs * options.pace))
    settings = msgspec.structs.replace(usual, **paced, jobs=jobs, pace=options.pace)
    if options.control is None:
        return settings
    control = find_control(options.control)
    return msgspec.structs.replace(
        settings,
        control=control.name,
        control_at=control.address,
        control_on=control.on,
        drain_seconds=control.drain_seconds,
    )


def _guards(guards: Guards, schedule: list[Planned]) -> Guards:
    """A shorter run holds fewer faults, and proves less: its bound says so. One that holds none proves nothing."""
    planned = len({each.at for each in schedule})
    return msgspec.structs.replace(guards, faults=min(guards.faults, max(1, planned)))
