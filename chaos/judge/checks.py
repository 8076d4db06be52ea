"""The promises of the scheduler as pure functions over a recorded run; `judge` composes them with the guards.

Each check compares independent records: what the client was told, what the job bodies wrote, what was broken
when, and only then what the scheduler says of itself. No check reads a clock, a file or a server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

from chaos.judge.causes import CAUSES, cause, gave_up_by_interruption
from chaos.judge.guards import GUARDS
from chaos.judge.recovery import recovery_time
from chaos.judge.retries import release, repetition, retry_bound, retry_schedule
from chaos.record.history import Execution, Final, Run, logical
from chaos.record.verdict import Check, Judgement, Verdict, broken, compose, loss_bound


def at_least_once(run: Run) -> Check:
    """Every accepted job was carried out: its body ended, or it failed after its body had started.

    COMPLETED proves nothing by itself: a job settled before its body ran is lost when the worker dies.
    Source: jepsen checker.clj `total-queue` (lost = acknowledged - dequeued, judged after a full drain).
    """
    lost = [_lost(run, job) for job in run.accepted if not _carried_out(run, job)]
    return broken(
        "at-least-once",
        lost,
        f"{len(lost)} of {len(run.accepted)} accepted jobs were lost",
        f"0 of {len(run.accepted)} accepted jobs lost over {_plural(run.fault_count, 'fault')}",
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


def no_phantom(run: Run) -> Check:
    """No body ran, and no job exists, that nobody submitted.

    A submit without an answer may have been accepted, so each one excuses one unknown job of its type.
    Source: jepsen checker.clj `total-queue` (unexpected, recovered).
    """
    kinds = {each.id: each.type for each in run.finals} | {e.job_id: e.type for e in run.effects}
    strangers = {job: kind for job, kind in kinds.items() if job not in run.accepted}
    excused = Counter(str(invoke.value["type"]) for invoke in run.undecided)
    phantoms = Counter(strangers.values()) - excused
    offenders = [{"id": job, "type": kind} for job, kind in strangers.items() if phantoms[kind] > 0]
    return broken(
        "no-phantom",
        offenders,
        f"{phantoms.total()} jobs exist or ran that nobody submitted",
        f"nothing ran that nobody submitted ({len(strangers)} unanswered submits had been accepted)",
        recovered=len(strangers),
    )


def fencing(run: Run) -> Check:
    """A final status belongs to the newest attempt and is never overwritten by a stale worker.

    A body that sleeps through its lease may well wake up and write; the scheduler promises that its outcome
    does not count. So: the final attempt is not below the highest that started, a result was returned by the
    attempt that the status names, and a status once seen final stays as it was.
    Source: due-work-harness "bounded ownership"; Kleppmann, "How to do distributed locking" (fencing tokens).
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
        "fencing",
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


def status_effect(run: Run) -> Check:
    """The status tells what the body did: COMPLETED has the `end` of that very attempt, FAILED has none.

    Excused: a body that ended while its process was being killed or cut from PostgreSQL; nobody could know.
    Source: harness checks for job schedulers (Celery SUCCESS with a failed callback).
    """
    offenders = [
        {"id": job.id, "status": job.status, "attempt": job.attempt, "reason": reason}
        for job in run.finals
        if (reason := _mismatch(run, job))
    ]
    return broken(
        "status-effect",
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


def terminal(run: Run) -> Check:
    """Every accepted job reached a final status by the end of the drain.

    Source: DESIGN "an accepted (202) job reaches a final status"; jepsen: a crashed drain is no pass.
    """
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
        "terminal",
        offenders,
        f"{len(offenders)} jobs did not reach a final status",
        ", ".join(f"{count} {status}" for status, count in sorted(statuses.items())) or "no jobs",
        statuses=dict(statuses),
    )


def survival(run: Run) -> Check:
    """No process of the scheduler ended that no fault was aimed at.

    Source: DESIGN "stores away: wait and retry, don't crash-loop"; celery#8030 and kin (silent after a reconnect).
    """
    deaths = list(run.manifest.deaths)
    return broken("survival", deaths, "; ".join(deaths), "every process lived until it was told to end")


def dlq_exact(run: Run) -> Check:
    """The dead-letter stream holds every job whose attempts are spent exactly once, and nothing else.

    Nor was a letter there before its job was FAILED: an entry's id is the time of its writing, on the same clock.
    Source: django-vtasks "gauntlet" (801 entries in the DLQ of a run that called itself complete).
    """
    if run.stores.dlq is None:
        return Check("dlq-exact", "unknown", "the dead-letter stream could not be read")
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
        "dlq-exact",
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


def redis_empty(run: Run) -> Check:
    """Nothing is left behind: stream, pending entries and retry index are empty after the drain.

    Source: DESIGN "memory, stream length, PEL … stay bounded"; taskiq-redis#114 (4 M acknowledged entries).
    """
    left = {"stream": run.stores.stream, "pending": run.stores.pending, "retry": run.stores.retry}
    if None in left.values():
        return Check("redis-empty", "unknown", "Redis could not be read after the drain", dict(left))
    offenders = [{"key": key, "left": count} for key, count in left.items() if count]
    return broken(
        "redis-empty",
        offenders,
        "Redis still holds " + ", ".join(f"{each['left']} in {each['key']}" for each in offenders),
        "stream, pending entries and retry index are empty",
        **left,
    )


def one_submit_one_job(run: Run) -> Check:
    """One idempotency key is one job, however often it is sent; two submits are never merged into one.

    Source: IETF draft "The Idempotency-Key HTTP Header Field"; redis-py resends a lost XADD silently.
    """
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
        "idempotent-submit",
        offenders,
        f"{len(offenders)} submits do not stand for exactly one job",
        f"{len(ids)} submits, {len(keys)} jobs, {repeats} of them sent again",
        repeats=repeats,
    )


def bystanders(run: Run) -> Check:
    """No job is dead-lettered for the crashes of another: a body that never failed did not deserve it.

    Judged where jobs kill their workers and hardly anything else does (a job that outside kills hit again and again is
    spent by design). Source: DESIGN "in the DLQ exactly once, and nothing else is".
    """
    outside = sum(each.fault in CAUSES and each.fault != "crash" for each in run.windows)
    crashes = sum(each.fault == "crash" for each in run.windows)
    judged = crashes > 0 and outside < MANY_DEATHS
    dead = [job for job in run.finals if job.status == "FAILED" and job.type != "CRASH"] if judged else []
    victims = [job for job in dead if not any(each.event == "error" for each in run.executions.get(job.id, []))]
    return broken(
        "bystanders",
        [{"id": job.id, "type": job.type, "attempt": job.attempt} for job in victims],
        f"{len(victims)} jobs that never failed themselves are FAILED for the crashes of others",
        f"{crashes} crashes of poison jobs took no other job to the dead letters" if judged else "no poison job ran",
    )


MANY_DEATHS = 2
PROMISES: tuple[Callable[[Run], Check], ...] = (
    at_least_once,
    no_phantom,
    fencing,
    status_effect,
    terminal,
    survival,
    repetition,
    retry_schedule,
    retry_bound,
    release,
    dlq_exact,
    bystanders,
    redis_empty,
    one_submit_one_job,
    recovery_time,
)


def judge(run: Run) -> Judgement:
    """Every promise, then every guard against a run that proved nothing."""
    checks = [check(run) for check in (*PROMISES, *GUARDS)]
    verdict = compose([check.verdict for check in checks])
    return Judgement(verdict, checks, run.fault_count, len(run.accepted), _sentence(run, verdict, checks))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _sentence(run: Run, verdict: Verdict, checks: list[Check]) -> str:
    if verdict == "valid":
        lost = f"0 of {len(run.accepted)} jobs lost over {_plural(run.fault_count, 'fault')}"
        if not run.fault_count:
            return f"{lost}: nothing was broken, so nothing is proved about faults."
        bound = f"{loss_bound(run.fault_count):.0%}"
        return f"{lost}: with 95 % confidence fewer than {bound} of such faults lose anything."
    culprits = [f"{check.name}: {check.summary}" for check in checks if check.verdict == verdict]
    prefix = "Broken" if verdict == "invalid" else "Nothing proved"
    return f"{prefix}: {'; '.join(culprits)}."
