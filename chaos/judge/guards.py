"""Guards against empty runs: each makes the verdict unknown when no violation could have shown itself."""

from __future__ import annotations

from itertools import pairwise

from chaos.judge.causes import why_again
from chaos.judge.promise import Promise, promise
from chaos.record.history import Run, Window
from chaos.record.verdict import Finding


@promise("faults-fired", source="Antithesis `sometimes`; krkn, litmus: experiments that never fired and passed")
def faults_fired(run: Run) -> Finding:
    """At least as many faults took effect as the scenario needs."""
    needed, fired = run.manifest.guards.faults, run.fault_count
    return _guard(fired >= needed, f"{fired} faults fired, {needed} needed", fired=fired)


@promise("overlap", source='DESIGN "unknown when … none overlapped an in-flight job"')
def overlap(run: Run) -> Finding:
    """At least one fault hit while a job was in flight: accepted or running, and not finished yet."""
    hits = {f"{w.fault} {w.target}": in_flight(run, w) for w in run.windows if w.fault != "crash"}
    wanted = run.manifest.guards.overlap and run.manifest.guards.faults > 0
    text = ", ".join(f"{count} jobs in flight at {name}" for name, count in hits.items()) or "no fault"
    return _guard(not wanted or any(hits.values()), text, in_flight=hits)


@promise("redelivery", source='DESIGN "unknown when … nothing was redelivered"')
def redelivery(run: Run) -> Finding:
    """Where a scenario takes workers away, some job was run again because of it."""
    reasons = (why_again(run, *pair) for runs in run.executions.values() for pair in pairwise(runs))
    again = sum(reason not in {"retry", "unexplained"} for reason in reasons)
    wanted = run.manifest.guards.redelivery
    return _guard(not wanted or again > 0, f"{again} bodies ran again after a fault", again=again)


@promise("drained", source="jepsen checker.clj `total-queue`: without a full drain a missing element proves nothing")
def drained(run: Run) -> Finding:
    """The run waited for the end and read every job's final answer."""
    waited = any(phase.name == "drain" for phase in run.manifest.phases)
    return _guard(waited and bool(run.finals), f"{len(run.finals)} final answers read")


@promise("operations", source="jepsen checker.clj `stats`: a run in which an operation never succeeds is no pass")
def operations(run: Run) -> Finding:
    """Some submit succeeded and some body wrote to the ledger."""
    good = bool(run.accepted) and bool(run.effects)
    ends = {end: sum(call.type == end for call in run.submits) for end in ("ok", "info", "fail")}
    text = ", ".join(f"{count} {end}" for end, count in ends.items())
    return _guard(good, f"submits: {text}; {len(run.effects)} effects", **ends)


@promise("harness", source='DESIGN "a hung Toxiproxy call is bounded and makes the run unknown"')
def harness_sound(run: Run) -> Finding:
    """The harness itself worked: no hung fault injector, no fault that stayed."""
    troubles = run.manifest.troubles
    return _guard(not troubles, "; ".join(troubles) or "no trouble in the harness itself")


GUARDS: tuple[Promise, ...] = (
    faults_fired,
    overlap,
    redelivery,
    drained,
    operations,
    harness_sound,
)


def in_flight(run: Run, window: Window) -> int:
    """How many jobs had been accepted before the fault and wrote to the ledger at or after its onset."""
    last: dict[str, int] = {}
    for effect in run.effects:
        last[effect.job_id] = max(last.get(effect.job_id, 0), effect.time_ns)
    submitted = ((job, invoke.time_ns) for job, invoke in run.accepted.items())
    return sum(begun < window.onset_ns <= last.get(job, window.onset_ns) for job, begun in submitted)


def _guard(holds: bool, summary: str, **details: object) -> Finding:
    return Finding("valid" if holds else "unknown", summary, details)
