"""Promises of the next attempt: when it comes, how many there are, and which number it has."""

from __future__ import annotations

from itertools import pairwise

from chaos.judge.causes import backoff_seconds, cause, causes_of, is_retry
from chaos.judge.promise import promise
from chaos.record.history import SECOND, Run
from chaos.record.verdict import Finding, broken

LATE_SECONDS = 2.0  # a retry later than this is counted in the summary; it breaks nothing
GRAIN_SECONDS = 0.001  # due times are kept in milliseconds; below that nothing is early


@promise(
    "retry-schedule",
    source='DESIGN "retries at 2 s, 4 s, 8 s, never early"; jepsen Chronos checker (targets with tolerance)',
)
def retry_schedule(run: Run) -> Finding:
    """Attempt n+1 starts base·2^(n-1) seconds after the error of attempt n, never earlier.

    Lateness is counted, not judged: a cut or a backlog delays a retry rightly. Restarts after a death are no
    retries and are judged by recovery-time.
    """
    lateness: list[float] = []
    early: list[dict[str, object]] = []
    for job, runs in run.executions.items():
        for failed, again in pairwise(runs):
            if not is_retry(failed, again) or failed.close_ns is None or cause(run, failed):
                continue
            promised = backoff_seconds(run, failed)
            waited = (again.start_ns - failed.close_ns) / SECOND
            lateness.append(waited - promised)
            if waited < promised - GRAIN_SECONDS:
                seconds = {"waited": round(waited, 4), "promised": promised}
                early.append({"id": job, "attempt": again.attempt, **seconds})
    late = sum(each > LATE_SECONDS for each in lateness)
    worst = max(lateness, default=0.0)
    return broken(
        early,
        f"{len(early)} of {len(lateness)} retries were early",
        f"{len(lateness)} retries, none early, {late} later than {LATE_SECONDS:g} s (worst {worst:.2f} s)",
        retries=len(lateness),
        late=late,
        median_late_seconds=_median(lateness),
        worst_late_seconds=round(worst, 3),
    )


@promise("retry-bound", source='harness checks for job schedulers ("retry bound")')
def retry_bound(run: Run) -> Finding:
    """No job starts more attempts than it was given: by number, by its body's own failures, or by its crashes."""
    allowed = {job.id: job.max_attempts for job in run.finals}
    offenders: list[dict[str, object]] = []
    most = 0
    for job, runs in run.executions.items():
        limit = allowed.get(job, run.settings.max_attempts)
        failures = sum(each.event == "error" and not cause(run, each) for each in runs)
        crashes = sum(each.type == "CRASH" for each in runs)  # each start of one is a crash
        spent = max(failures, crashes, *(each.attempt for each in runs))
        most = max(most, spent)
        if spent > limit:
            offenders.append({"id": job, "attempts": spent, "max_attempts": limit})
    return broken(
        offenders,
        f"{len(offenders)} jobs started more attempts than allowed",
        f"no job started more attempts than allowed (most: {most})",
        most=most,
    )


@promise("release", source='DESIGN "SIGTERM loses nothing and burns no attempt"')
def release(run: Run) -> Finding:
    """A worker that is told to stop gives its jobs back with the attempt they had.

    Judged for bodies that only a SIGTERM cut off: the next one has the same number.
    """
    released, burned = 0, []
    for job, runs in run.executions.items():
        for first, again in pairwise(runs):
            if first.event is None and causes_of(run, first) == {"released"}:
                released += 1
                if again.attempt != first.attempt:
                    burned.append({"id": job, "attempts": [first.attempt, again.attempt]})
    return broken(
        burned,
        f"{len(burned)} of {released} jobs given back at SIGTERM had lost an attempt",
        f"{released} jobs were given back at SIGTERM, none had lost an attempt",
        released=released,
    )


def _median(values: list[float]) -> float | None:
    return round(sorted(values)[len(values) // 2], 3) if values else None
