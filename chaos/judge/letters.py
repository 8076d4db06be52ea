"""Promises of the dead letters: every job whose attempts are spent, each once, and no other."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from chaos.judge.causes import CAUSES
from chaos.judge.promise import promise
from chaos.record.history import Final, Run
from chaos.record.verdict import Finding, broken

MANY_DEATHS = 2  # so many kills from outside may spend a job's attempts by design


@promise(
    "dlq-exact",
    source='django-vtasks "gauntlet" (801 entries in the DLQ of a run that called itself complete)',
)
def dlq_exact(run: Run) -> Finding:
    """The dead-letter stream holds every job whose attempts are spent exactly once, and nothing else.

    Nor was a letter there before its job was FAILED: an entry's id is the time of its writing, on the same clock.
    """
    if run.stores.dlq is None:
        return Finding("unknown", "the dead-letter stream could not be read")
    letters = Counter(run.stores.dlq)
    failed = {job.id: job for job in run.finals if job.status == "FAILED"}
    offenders: list[dict[str, object]] = [
        {"id": job, "reason": "FAILED, but not in the DLQ"} for job in failed if not letters[job]
    ]
    offenders += [{"id": job, "reason": f"{n} entries"} for job, n in letters.items() if n > 1]
    offenders += [{"id": job, "reason": "in the DLQ, but not FAILED"} for job in letters if job not in failed]
    offenders += [
        {"id": job.id, "reason": f"FAILED after {job.attempt} of {job.max_attempts} attempts"}
        for job in failed.values()
        if job.attempt < job.max_attempts
    ]
    offenders += [
        {"id": job, "reason": f"in the DLQ {ahead} ms before it was FAILED"}
        for job, written_ms in zip(run.stores.dlq, run.stores.dlq_ms, strict=False)
        if (ahead := _finished_ms(failed.get(job)) - written_ms) > 0
    ]
    return broken(
        offenders,
        f"{len(offenders)} dead letters are wrong",
        f"{letters.total()} dead letters, each job exactly once, {len(failed)} jobs FAILED",
        letters=letters.total(),
        failed=len(failed),
    )


def _finished_ms(job: Final | None) -> int:
    """Whole milliseconds since the epoch; 0 when it never ended."""
    if job is None or job.finished_at is None:
        return 0
    return int(datetime.fromisoformat(job.finished_at).timestamp() * 1000)


@promise("bystanders", source='DESIGN "in the DLQ exactly once, and nothing else is"')
def bystanders(run: Run) -> Finding:
    """No job is dead-lettered for the crashes of another: a body that never failed did not deserve it.

    Judged where jobs kill their workers and hardly anything else does (a job that outside kills hit again and again is
    spent by design).
    """
    outside = sum(each.fault in CAUSES and each.fault != "crash" for each in run.windows)
    crashes = sum(each.fault == "crash" for each in run.windows)
    judged = crashes > 0 and outside < MANY_DEATHS
    dead = [job for job in run.finals if job.status == "FAILED" and job.type != "CRASH"] if judged else []
    victims = [job for job in dead if not any(each.event == "error" for each in run.executions.get(job.id, []))]
    return broken(
        [{"id": job.id, "type": job.type, "attempt": job.attempt} for job in victims],
        f"{len(victims)} jobs that never failed themselves are FAILED for the crashes of others",
        f"{crashes} crashes of poison jobs took no other job to the dead letters" if judged else "no poison job ran",
    )
