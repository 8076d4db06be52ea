"""How long the jobs of a dead worker waited for another: measured per orphan, judged by lease + 1 s."""

from __future__ import annotations

from collections import Counter

import msgspec

from chaos.judge.causes import CAUSES, is_postgres
from chaos.judge.promise import promise
from chaos.record.history import SECOND, Execution, Run, Sample, Window
from chaos.record.verdict import Finding, broken

ALLOWANCE_SECONDS = 1.0  # the promise: within lease + 1 s
SUSPECT_FROM_DEATH = 2  # a job of two dead workers in a row waits its turn: it may be what killed them


class Orphan(msgspec.Struct, frozen=True):
    """A body cut off by its worker's death, and how long its job waited to start again (None: for ever)."""

    id: str
    attempt: int
    worker: str
    seconds: float | None
    queued: bool
    excuse: str | None = None


@promise("recovery-time", source='DESIGN "a dead worker\'s jobs restart within lease + 1 s (lease 5 s)"')
def recovery_time(run: Run) -> Finding:
    """Jobs of a worker that died or froze start again within lease + 1 s.

    A ready job that queues behind a backlog is recovered; its wait is the backlog's and is only counted. So are the
    waits that the promise leaves out: PostgreSQL out of reach, no worker left that had held its lease for one lease,
    a job whose worker died for the second time in a row.
    """
    bound = run.settings.lease_seconds + ALLOWANCE_SECONDS
    orphans = [each for window in run.windows for each in orphans_of(run, window, bound)]
    waits = sorted(each.seconds for each in orphans if each.seconds is not None)
    judged = [each for each in orphans if not each.queued and not each.excuse]
    prompt = [each.seconds for each in judged if each.seconds is not None]
    queued = sum(each.queued for each in orphans)
    excused = Counter(each.excuse for each in orphans if each.excuse)
    late = [each for each in judged if each.seconds is None or each.seconds > bound]
    worst = f"{max(prompt):.2f} s" if prompt else "nothing to restart"
    behind = f"; {queued} were ready by then and queued behind a backlog" if queued else ""
    behind += "".join(f"; {count} not judged: {excuse}" for excuse, count in sorted(excused.items()))
    return broken(
        [msgspec.to_builtins(each) for each in late],
        f"{len(late)} of {len(orphans)} orphaned jobs did not restart within {bound:g} s (worst {worst})",
        f"{len(prompt)} orphaned jobs restarted within {bound:g} s of the death (worst {worst}){behind}",
        orphans=len(orphans),
        bound_seconds=bound,
        waits_seconds=[round(each, 3) for each in waits],
        queued=queued,
        excused=dict(excused),
    )


def orphans_of(run: Run, window: Window, bound: float) -> list[Orphan]:
    """The bodies that were open in the process when it was killed, or frozen for longer than the bound."""
    if window.fault not in {"kill", "pause", "crash"} or window.pid is None:
        return []
    if window.fault == "pause" and _length(window) < bound:
        return []
    found = []
    for runs in run.executions.values():
        for index, each in enumerate(runs):
            if each.pid == window.pid and _was_open(each, window) and not _is_spent(run, each):
                found.append(_orphan(run, window, runs, index, bound))
    return found


def _orphan(run: Run, window: Window, runs: list[Execution], index: int, bound: float) -> Orphan:
    cut = runs[index]
    restart = next((each for each in runs[index + 1 :] if each.attempt > cut.attempt), None)
    seconds = (restart.start_ns - window.onset_ns) / SECOND if restart else None
    deadline_ns = window.onset_ns + round(bound * SECOND)
    queued = restart is not None and has_backlog(run.samples, deadline_ns, restart.start_ns)
    excuse = _excuse(run, window, runs[: index + 1], bound)
    return Orphan(cut.job_id, cut.attempt, str(window.target), seconds, queued, excuse)


def _excuse(run: Run, window: Window, runs: list[Execution], bound: float) -> str | None:
    """Why the promise does not bind here; None where it does."""
    lease_ns, deadline_ns = round(run.settings.lease_seconds * SECOND), window.onset_ns + round(bound * SECOND)
    if any(is_postgres(each) and each.covers(window.onset_ns - lease_ns, deadline_ns) for each in run.windows):
        return "PostgreSQL was out of reach"
    dead = {each.pid for each in run.windows if each.fault in CAUSES and _within(each, window, lease_ns, deadline_ns)}
    if len(dead) >= run.settings.workers:
        return "no worker was left that had held its lease for one lease"
    if runs[-1].attempt >= SUSPECT_FROM_DEATH and all(each.close_ns is None for each in runs[-SUSPECT_FROM_DEATH:]):
        return "its worker died for the second time in a row"
    return None


def _within(other: Window, window: Window, lease_ns: int, deadline_ns: int) -> bool:
    """Whether another worker's death fell so close to this one that it could not rescue."""
    return window.onset_ns - 2 * lease_ns <= other.onset_ns <= deadline_ns


def has_backlog(samples: list[Sample], first_ns: int, last_ns: int) -> bool:
    """Whether undelivered jobs waited in the stream at every sample between the two moments."""
    between = [s for s in samples if first_ns <= s.time_ns <= last_ns and s.stream is not None]
    return bool(between) and all((s.stream or 0) > (s.pending or 0) for s in between)


def _was_open(execution: Execution, window: Window) -> bool:
    closed_after = execution.close_ns is None or (
        window.fault == "pause" and execution.close_ns >= (window.healed_ns or 0)
    )
    return execution.start_ns <= window.onset_ns and closed_after


def _is_spent(run: Run, execution: Execution) -> bool:
    """The death used up the last attempt: FAILED is right and nothing restarts."""
    final = run.final.get(execution.job_id)
    return final is not None and final.status == "FAILED" and final.attempt == execution.attempt


def _length(window: Window) -> float:
    return float("inf") if window.healed_ns is None else (window.healed_ns - window.onset_ns) / SECOND
