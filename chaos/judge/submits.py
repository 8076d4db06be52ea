"""Promises of what a submit stands for: exactly one job, and no job without one."""

from __future__ import annotations

from collections import Counter

from chaos.judge.promise import promise
from chaos.record.history import Run, logical
from chaos.record.verdict import Finding, broken


@promise("no-phantom", source="jepsen checker.clj `total-queue`: unexpected, recovered")
def no_phantom(run: Run) -> Finding:
    """No body ran, and no job exists, that nobody submitted.

    A submit without an answer may have been accepted, so each one excuses one unknown job of its type.
    """
    types = {each.id: each.type for each in run.finals} | {e.job_id: e.type for e in run.effects}
    strangers = {job: job_type for job, job_type in types.items() if job not in run.accepted}
    excused = Counter(str(invoke.value["type"]) for invoke in run.undecided)
    phantoms = Counter(strangers.values()) - excused
    offenders = [{"id": job, "type": job_type} for job, job_type in strangers.items() if phantoms[job_type] > 0]
    return broken(
        offenders,
        f"{phantoms.total()} jobs exist or ran that nobody submitted",
        f"nothing ran that nobody submitted ({len(strangers)} unanswered submits had been accepted)",
        recovered=len(strangers),
    )


@promise(
    "idempotent-submit",
    source='IETF draft "The Idempotency-Key HTTP Header Field"; redis-py sends an XADD again without a word',
)
def idempotent_submit(run: Run) -> Finding:
    """One idempotency key is one job, however often it is sent; two submits are never merged into one."""
    ids: dict[str, set[str]] = {}
    keys: dict[str, set[str]] = {}
    for call in run.submits:
        if call.done and call.type == "ok":
            ids.setdefault(logical(call.begun), set()).add(call.done.value["id"])
            keys.setdefault(call.done.value["id"], set()).add(logical(call.begun))
    offenders = [{"key": key, "ids": sorted(found)} for key, found in ids.items() if len(found) > 1]
    offenders += [{"id": job, "keys": sorted(found)} for job, found in keys.items() if len(found) > 1]
    repeats = len(run.submits) - len({logical(call.begun) for call in run.submits})
    return broken(
        offenders,
        f"{len(offenders)} submits do not stand for exactly one job",
        f"{len(ids)} submits, {len(keys)} jobs, {repeats} of them sent again",
        repeats=repeats,
    )
