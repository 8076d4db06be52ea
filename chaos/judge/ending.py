"""Promises of how a run ends: every job final, every process alive, Redis empty."""

from __future__ import annotations

from collections import Counter

from chaos.judge.promise import promise
from chaos.record.history import Run
from chaos.record.verdict import Finding, broken


@promise("terminal", source='DESIGN "an accepted (202) job reaches a final status"; jepsen: a crashed drain is no pass')
def terminal(run: Run) -> Finding:
    """Every accepted job reached a final status by the end of the drain."""
    offenders: list[dict[str, object]] = [
        {"id": job, "status": "missing"} for job in run.accepted if job not in run.final
    ]
    offenders += [
        {"id": job.id, "status": job.status, "attempt": job.attempt, "run_at": job.run_at}
        for job in run.finals
        if not job.is_final
    ]
    statuses = Counter(job.status for job in run.finals)
    return broken(
        offenders,
        f"{len(offenders)} jobs did not reach a final status",
        ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "no jobs",
        statuses=dict(statuses),
    )


@promise(
    "survival",
    source='DESIGN "stores away: wait and retry, don\'t crash-loop"; celery#8030 and kin (silent after a reconnect)',
)
def survival(run: Run) -> Finding:
    """No process of the scheduler ended that no fault was aimed at."""
    deaths = list(run.manifest.deaths)
    return broken(deaths, "; ".join(deaths), "every process lived until it was told to end")


@promise(
    "redis-empty",
    source='DESIGN "memory, stream length, PEL … stay bounded"; taskiq-redis#114 (4 M acknowledged entries)',
)
def redis_empty(run: Run) -> Finding:
    """Nothing is left behind: stream, pending entries and retry index are empty after the drain."""
    left = {"stream": run.stores.stream, "pending": run.stores.pending, "retry": run.stores.retry}
    if None in left.values():
        return Finding("unknown", "Redis could not be read after the drain", dict(left))
    offenders = [{"key": key, "left": count} for key, count in left.items() if count]
    return broken(
        offenders,
        "Redis still holds " + ", ".join(f"{each['left']} in {each['key']}" for each in offenders),
        "stream, pending entries and retry index are empty",
        **left,
    )
