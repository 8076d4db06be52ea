"""What becomes of jobs that come to another end than their bodies wanted: cancelled, or past their time-out."""

from __future__ import annotations

import math

from chaos.judge.causes import backoff_seconds
from chaos.judge.promise import promise
from chaos.load.workload import Workload
from chaos.record.history import SECOND, Execution, Run, calls
from chaos.record.plan import Guards
from chaos.record.verdict import Finding, broken
from chaos.scenarios.load import exactly_once
from chaos.scenarios.scenario import Scenario, nothing, usual

OVERTIME = ("OVERTIME", "OVERTIME-PLAIN")
GIVEN_UP_SECONDS = 5.5  # the bodies' time-out, and what a worker waits for one to clean up
REPLACED_SECONDS = (
    15.0  # for a worker to drain, end and come back, and for the jobs that queued meanwhile; not measured
)


@promise(
    "cancelled-in-hand", source='DESIGN "CANCELLED only when asked"; cancelled jobs used to run from a worker\'s queue'
)
def cancelled_in_hand(run: Run) -> Finding:
    """A job that was cancelled stays so and its body starts no more; without being asked none is cancelled.

    A worker learns of a cancelling with its next heartbeat, so it is given one lease. What only waited on the stream
    proves little: exercised are jobs that had been claimed, and whose bodies never started.
    """
    asked = calls(run.history, "cancel")
    told = {call.begun.value["id"]: call.done.time_ns for call in asked if call.done and call.type == "ok"}
    wanted, late_ns = {call.begun.value["id"] for call in asked}, round(run.settings.lease_seconds * SECOND)
    offenders: list[dict[str, object]] = []
    for job in run.finals:
        starts = [each.start_ns for each in run.executions.get(job.id, ())]
        if job.status == "CANCELLED" and job.id not in wanted:
            offenders.append({"id": job.id, "reason": "nobody asked for its cancelling"})
        elif job.id in told and job.status != "CANCELLED":
            offenders.append({"id": job.id, "reason": f"was CANCELLED, became {job.status}"})
        elif job.id in told and starts and max(starts) > told[job.id] + late_ns:
            waited = (max(starts) - told[job.id]) / SECOND
            offenders.append({"id": job.id, "reason": f"its body started {waited:.1f} s after it was cancelled"})
    dropped = sum(job.id in told and bool(job.started_at) and job.id not in run.executions for job in run.finals)
    if not (offenders or dropped):
        return Finding("unknown", f"none of {len(told)} cancelled jobs was in a worker's hands and had not started")
    return broken(
        offenders,
        f"{len(offenders)} cancelled jobs are not what their clients were told",
        f"{len(told)} jobs were cancelled, {dropped} of them in a worker's hands; none started after that",
        cancelled=len(told),
        dropped=dropped,
    )


@promise("given-up", source='DESIGN "a worker that lives is useful"; a timed-out thread used to keep its slot')
def given_up(run: Run) -> Finding:
    """A body past its time-out holds neither its job nor its slot; a worker that lost too many is replaced."""
    overtime = [
        (each, following)
        for runs in run.executions.values()
        for each, following in zip(runs, [*runs[1:], None], strict=True)
        if each.type in OVERTIME and each.event == "error"
    ]
    ended = _first_seen_final(run)
    last_ns = max((phase.end_ns for phase in run.manifest.phases), default=0)
    offenders: list[dict[str, object]] = []
    for each, following in overtime:
        over_ns = following.start_ns if following else ended.get(each.job_id, math.inf)
        if min(over_ns, last_ns) - each.start_ns > _most_seconds(run, each) * SECOND:
            seconds = None if over_ns == math.inf else round((over_ns - each.start_ns) / SECOND, 1)
            offenders.append({"id": each.job_id, "attempt": each.attempt, "over_after": seconds})
    workers = len({each.pid for runs in run.executions.values() for each in runs})
    if not offenders and workers <= run.settings.workers:
        return Finding("unknown", f"{len(overtime)} bodies overstayed, too few to have a worker replaced")
    return broken(
        offenders,
        f"{len(offenders)} of {len(overtime)} attempts were not over in time",
        f"{len(overtime)} bodies overstayed and were given up in time; {workers} processes took turns as worker",
        overstayed=len(overtime),
    )


def _most_seconds(run: Run, overtime: Execution) -> float:
    return GIVEN_UP_SECONDS + backoff_seconds(run, overtime) + REPLACED_SECONDS


def _first_seen_final(run: Run) -> dict[str, int]:
    seen: dict[str, int] = {}
    for each in run.history:
        if each.f == "observe" and each.type == "ok":
            for job, *_ in each.value["finished"]:
                seen.setdefault(job, each.time_ns)
    return seen


CANCELLED = {"NOOP": 3, "SLEEP": 1}  # the short ones make the worker take many, the long ones make these wait
OVERSTAYING = {"OVERTIME-PLAIN": 12, "OVERTIME": 1, "NOOP": 5, "SLEEP": 4}

SCENARIOS = (
    Scenario(
        name="cancelled",
        claim="a job that is cancelled while it waits, also in a worker's hands, does not run",
        faults=nothing,
        settings=usual(duration=20.0, jobs=400, workers=1, concurrency=2),
        load=lambda settings: Workload(
            settings, mix=CANCELLED, sleep_seconds=(2.5, 3.0), bursts=2, together=True, cancelled=0.5
        ),
        guards=Guards(faults=0, overlap=False),
        promises=(cancelled_in_hand,),
    ),
    Scenario(
        name="overtime",
        claim="bodies that go on after their time-out, in a thread or in spite of a cancellation, cost no other job",
        faults=nothing,  # the bodies are the faults
        settings=usual(
            duration=40.0,  # each crowd, and what is tried again of it, is over before the next
            jobs=150,
            workers=1,
            concurrency=30,
            max_attempts=2,
            grace_seconds=20.0,
            drain_seconds=90.0,
            supervised=True,
        ),
        load=lambda settings: Workload(settings, mix=OVERSTAYING, sleep_seconds=(0.5, 2.0), bursts=4),
        guards=Guards(faults=3, overlap=False),
        promises=(exactly_once, given_up),
    ),
)
