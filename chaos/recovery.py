"""How long the jobs of a dead worker waited for another: measured per orphan, judged by lease + 1 s."""

from __future__ import annotations

import msgspec

from chaos.history import SECOND, Execution, Run, Sample, Window
from chaos.verdict import Check, broken

ALLOWANCE_SECONDS = 1.0


class Orphan(msgspec.Struct, frozen=True):
    """A body cut off by its worker's death, and how long its job waited to start again (None: for ever)."""

    id: str
    attempt: int
    worker: str
    seconds: float | None
    queued: bool


def recovery_time(run: Run) -> Check:
    """Jobs of a worker that died or froze start again within lease + 1 s.

    A ready job that queues behind a backlog is recovered; its wait is the backlog's and is only counted.
    Source: DESIGN "a dead worker's jobs restart within lease + 1 s (lease 5 s)".
    """
    bound = run.settings.lease_seconds + ALLOWANCE_SECONDS
    orphans = [each for window in run.windows for each in orphans_of(run, window, bound)]
    waits = sorted(each.seconds for each in orphans if each.seconds is not None)
    prompt = [each.seconds for each in orphans if each.seconds is not None and not each.queued]
    queued = sum(each.queued for each in orphans)
    late = [each for each in orphans if not each.queued and (each.seconds is None or each.seconds > bound)]
    worst = f"{max(prompt):.2f} s" if prompt else "nothing to restart"
    behind = f"; {queued} were ready by then and queued behind a backlog" if queued else ""
    return broken(
        "recovery-time",
        [msgspec.to_builtins(each) for each in late],
        f"{len(late)} of {len(orphans)} orphaned jobs did not restart within {bound:g} s (worst {worst})",
        f"{len(prompt)} orphaned jobs restarted within {bound:g} s of the death (worst {worst}){behind}",
        orphans=len(orphans),
        bound_seconds=bound,
        waits_seconds=[round(each, 3) for each in waits],
        queued=queued,
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
                found.append(_orphan(run, window, each, runs[index + 1 :], bound))
    return found


def _orphan(run: Run, window: Window, cut: Execution, later: list[Execution], bound: float) -> Orphan:
    restart = next((each for each in later if each.attempt > cut.attempt), None)
    seconds = (restart.start_ns - window.onset_ns) / SECOND if restart else None
    deadline_ns = window.onset_ns + round(bound * SECOND)
    queued = restart is not None and has_backlog(run.samples, deadline_ns, restart.start_ns)
    return Orphan(cut.job_id, cut.attempt, window.target, seconds, queued)


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
