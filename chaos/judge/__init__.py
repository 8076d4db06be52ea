"""What the record proves: promises judged one by one, and guards against runs that prove nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chaos.judge import delivery, ending, fencing, guards, letters, recovery, retries, status, submits
from chaos.judge.promise import Promise
from chaos.record.history import Run
from chaos.record.verdict import Check, Judgement, Verdict, compose, loss_bound, plural

PROMISES: tuple[Promise, ...] = (
    delivery.at_least_once,
    submits.no_phantom,
    fencing.fencing,
    status.status_effect,
    ending.terminal,
    ending.survival,
    delivery.repetition,
    retries.retry_schedule,
    retries.retry_bound,
    retries.release,
    letters.dlq_exact,
    letters.bystanders,
    ending.redis_empty,
    submits.idempotent_submit,
    recovery.recovery_time,
)


def judge(run: Run, extra: Sequence[Promise] = ()) -> Judgement:
    """Every promise, those that the run's scenario brings (`extra`), then every guard. Never raises."""
    checks = [each.check(run) for each in (*PROMISES, *extra, *guards.GUARDS)]
    verdict = compose([check.verdict for check in checks])
    faults, jobs = _counted(lambda: run.fault_count), _counted(lambda: len(run.accepted))
    return Judgement(verdict, checks, faults, jobs, _sentence(verdict, checks, faults, jobs))


def _counted(count: Callable[[], int]) -> int:
    """0 where the record does not tell: a guard that counts the same is unknown then, and so is the run."""
    try:
        return count()
    except Exception:
        return 0


def _sentence(verdict: Verdict, checks: list[Check], faults: int, jobs: int) -> str:
    if verdict == "valid":
        lost = f"0 of {jobs} jobs lost over {plural(faults, 'fault')}"
        if not faults:
            return f"{lost}: nothing was broken, so nothing is proved about faults."
        return f"{lost}: with 95 % confidence fewer than {loss_bound(faults):.0%} of such faults lose anything."
    culprits = [f"{check.name}: {check.summary}" for check in checks if check.verdict == verdict]
    prefix = "Broken" if verdict == "invalid" else "Nothing proved"
    return f"{prefix}: {'; '.join(culprits)}."
