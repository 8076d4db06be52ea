"""The promise that a job's status is what its body did."""

from __future__ import annotations

from chaos.judge.causes import cause, gave_up_by_interruption
from chaos.judge.promise import promise
from chaos.record.history import Execution, Final, Run
from chaos.record.verdict import Finding, broken


@promise("status-effect", source="harness checks for job schedulers (Celery SUCCESS with a failed callback)")
def status_effect(run: Run) -> Finding:
    """The status tells what the body did: COMPLETED has the `end` of that very attempt, FAILED has none.

    Excused: a body that ended while its process was being killed or cut from PostgreSQL; nobody could know.
    """
    offenders = [
        {"id": job.id, "status": job.status, "attempt": job.attempt, "reason": reason}
        for job in run.finals
        if (reason := _mismatch(run, job))
    ]
    return broken(
        offenders,
        f"{len(offenders)} jobs have a status that their effects contradict",
        f"the status of all {len(run.finals)} jobs agrees with what their bodies wrote",
    )


def _mismatch(run: Run, job: Final) -> str | None:
    runs = run.executions.get(job.id, [])
    if job.status == "COMPLETED":
        if not any(each.event == "end" and each.attempt == job.attempt for each in runs):
            return f"no body of attempt {job.attempt} ended"
        if job.type == "WEBHOOK" and run.called and (job.id, job.attempt) not in run.called:
            return f"the sink never heard of attempt {job.attempt}"
        return None
    ended = [each for each in runs if each.event == "end" and not cause(run, each)]
    if ended and job.status != "CANCELLED":
        return f"the body of attempt {ended[0].attempt} had ended"
    if job.status == "FAILED" and not _has_failed(run, job, runs):
        return f"no body of attempt {job.attempt} failed and nothing interrupted it"
    return None


def _has_failed(run: Run, job: Final, runs: list[Execution]) -> bool:
    last = [each for each in runs if each.attempt == job.attempt]
    if not last:
        return gave_up_by_interruption(run)
    return any(each.event == "error" or cause(run, each) for each in last)
