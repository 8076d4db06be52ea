"""Guards against empty runs: each makes the verdict unknown when no violation could have shown itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from chaos.judge.causes import why_again
from chaos.record.history import Run, Window
from chaos.record.verdict import Check


def faults_fired(run: Run) -> Check:
    """At least as many faults took effect as the scenario needs.

    Source: Antithesis `sometimes` assertions; krkn, litmus: experiments that never fired and passed.
    """
    needed, fired = run.manifest.guards.faults, run.fault_count
    return _guard("faults-fired", fired >= needed, f"{fired} faults fired, {needed} needed", fired=fired)


def overlap(run: Run) -> Check:
    """At least one fault hit while a job was in flight: accepted or running, and not finished yet."""
    hits = {f"{w.fault} {w.target}": in_flight(run, w) for w in run.windows if w.fault != "crash"}
    wanted = run.manifest.guards.overlap and run.manifest.guards.faults > 0
    text = ", ".join(f"{count} jobs in flight at {name}" for name, count in hits.items()) or "no fault"
    return _guard("overlap", not wanted or any(hits.values()), text, in_flight=hits)


def redelivery(run: Run) -> Check:
    """Where a scenario takes workers away, some job was run again because of it."""
    reasons = (why_again(run, *pair) for runs in run.executions.values() for pair in pairwise(runs))
    again = sum(reason not in {"retry", "unexplained"} for reason in reasons)
    wanted = run.manifest.guards.redelivery
    return _guard("redelivery", not wanted or again > 0, f"{again} bodies ran again after a fault", again=again)


def drained(run: Run) -> Check:
    """The run waited for the end and read every job's final answer.

    Source: jepsen checker.clj `total-queue`: without a full drain a missing element proves nothing.
    """
    waited = any(phase.name == "drain" for phase in run.manifest.phases)
    return _guard("drained", waited and bool(run.finals), f"{len(run.finals)} final answers read")


def operations(run: Run) -> Check:
    """Some submit succeeded and some body wrote to the ledger.

    Source: jepsen checker.clj `stats`: a run in which an operation never succeeds is no pass.
    """
    good = bool(run.accepted) and bool(run.effects)
    kinds = {kind: sum(call.type == kind for call in run.submits) for kind in ("ok", "info", "fail")}
    text = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return _guard("operations", good, f"submits: {text}; {len(run.effects)} effects", **kinds)


def harness_sound(run: Run) -> Check:
    """The harness itself worked: no hung fault injector, no fault that stayed."""
    troubles = run.manifest.troubles
    return _guard("harness", not troubles, "; ".join(troubles) or "no trouble in the harness itself")


GUARDS: tuple[Callable[[Run], Check], ...] = (
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


def _guard(name: str, holds: bool, summary: str, **details: object) -> Check:
    return Check(name, "valid" if holds else "unknown", summary, details)
