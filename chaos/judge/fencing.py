"""The promise that only the newest attempt has a say in how its job ends."""

from __future__ import annotations

from chaos.judge.promise import promise
from chaos.record.history import Execution, Final, Run
from chaos.record.verdict import Finding, broken


@promise(
    "fencing",
    source='due-work-harness "bounded ownership"; Kleppmann, "How to do distributed locking" (fencing tokens)',
)
def fencing(run: Run) -> Finding:
    """A final status belongs to the newest attempt and is never overwritten by a stale worker.

    A body that sleeps through its lease may well wake up and write; the scheduler promises that its outcome
    does not count. So: the final attempt is not below the highest that started, a result was returned by the
    attempt that the status names, and a status once seen final stays as it was.
    """
    seen = _first_seen_final(run)
    offenders = [
        {"id": job.id, "reason": reason}
        for job in run.finals
        for reason in (_overtaken(run, job), _foreign_result(job), _rewritten(job, seen))
        if reason
    ]
    stale = sum(_is_stale(each, runs) for runs in run.executions.values() for each in runs)
    return broken(
        offenders,
        f"{len(offenders)} final statuses were written by a stale attempt",
        f"no final status was overwritten; {stale} stale bodies finished and did not count",
        stale_bodies=stale,
        observed=len(seen),
    )


def _is_stale(execution: Execution, runs: list[Execution]) -> bool:
    close = execution.close_ns
    return close is not None and any(each.attempt > execution.attempt and each.start_ns < close for each in runs)


def _overtaken(run: Run, job: Final) -> str | None:
    newest = max((each.attempt for each in run.executions.get(job.id, ())), default=0)
    if job.status == "CANCELLED" or job.attempt >= newest:
        return None
    return f"{job.status} as attempt {job.attempt}, but attempt {newest} had started"


def _foreign_result(job: Final) -> str | None:
    author = job.result.get("attempt") if isinstance(job.result, dict) else None
    if job.status != "COMPLETED" or author is None or author == job.attempt:
        return None
    return f"COMPLETED as attempt {job.attempt} with the result of attempt {author}"


def _first_seen_final(run: Run) -> dict[str, tuple[str, int]]:
    seen: dict[str, tuple[str, int]] = {}
    for each in run.history:
        if each.f == "observe" and each.type == "ok":
            for job, status, attempt in each.value["finished"]:
                seen.setdefault(job, (status, attempt))
    return seen


def _rewritten(job: Final, seen: dict[str, tuple[str, int]]) -> str | None:
    before = seen.get(job.id)
    if before is None or before == (job.status, job.attempt):
        return None
    return f"was {before[0]} of attempt {before[1]}, became {job.status} of attempt {job.attempt}"
