"""Promises of how often a job's body runs: at least once, and again only for a reason."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from chaos.judge.causes import why_again
from chaos.judge.promise import promise
from chaos.record.history import Run
from chaos.record.verdict import Finding, broken, loss_bound, plural


@promise(
    "at-least-once",
    source="jepsen checker.clj `total-queue`: lost = acknowledged - dequeued, judged after a full drain",
)
def at_least_once(run: Run) -> Finding:
    """Every accepted job was carried out: its body ended, or it failed after its body had started.

    COMPLETED proves nothing by itself: a job settled before its body ran is lost when the worker dies.
    """
    lost = [_lost(run, job) for job in run.accepted if not _carried_out(run, job)]
    return broken(
        lost,
        f"{len(lost)} of {len(run.accepted)} accepted jobs were lost",
        f"0 of {len(run.accepted)} accepted jobs lost over {plural(run.fault_count, 'fault')}",
        bound_per_fault=round(loss_bound(run.fault_count), 4),
        accepted=len(run.accepted),
        lost=[job["id"] for job in lost],
    )


def _carried_out(run: Run, job: str) -> bool:
    events = {each.event for each in run.executions.get(job, ())}
    final = run.final.get(job)
    if final and final.status == "CANCELLED":
        return True
    return "end" in events or (final is not None and final.status == "FAILED" and bool(events))


def _lost(run: Run, job: str) -> dict[str, object]:
    final = run.final.get(job)
    starts = len(run.executions.get(job, ()))
    return {"id": job, "status": final.status if final else "missing", "started": starts, "ended": 0}


@promise("repetition", source='DESIGN "a live worker cut from Redis for seconds neither loses nor repeats its jobs"')
def repetition(run: Run) -> Finding:
    """A body runs again only after an error, or because a fault took its worker: each one is attributed.

    At-least-once allows duplicates, but not one that no fault explains. Redis faults explain none.
    """
    causes: Counter[str] = Counter()
    unexplained: list[dict[str, object]] = []
    for job, runs in run.executions.items():
        for first, again in pairwise(runs):
            why = why_again(run, first, again)
            causes[why] += 1
            if why == "unexplained":
                attempts = [first.attempt, again.attempt]
                unexplained.append({"id": job, "attempts": attempts, "pid": again.pid})
    duplicated = sum(sum(each.event == "end" for each in runs) > 1 for runs in run.executions.values())
    counted = ", ".join(f"{n} {why}" for why, n in sorted(causes.items())) or "none"
    return broken(
        unexplained,
        f"{len(unexplained)} bodies ran again though nothing had interrupted them",
        f"repeated bodies by cause: {counted}; {duplicated} jobs finished more than once",
        causes=dict(causes),
        duplicates=duplicated,
    )
