"""Why a body may have run without counting: which fault could have taken an execution's claim away.

A fault on a Redis link never excuses a repetition: a live worker cut from Redis keeps its jobs.
"""

from __future__ import annotations

from typing import Literal

from chaos.record.history import SECOND, Execution, Run, Window

Cause = Literal["crash", "lease lost", "released", "postgres"]

SETTLE_NS = SECOND  # a body that closed less than this before a fault may not have been settled yet
CAUSES: dict[str, Cause] = {
    "kill": "crash",
    "crash": "crash",
    "pause": "lease lost",
    "term": "released",
}
ANNOYING = {"clock", "configure", "key_held"}  # PostgreSQL answers as before


def cause(run: Run, execution: Execution) -> Cause | None:
    """The first fault that hit the execution, or the second after its close; None if nothing did."""
    for window in run.windows:
        if found := _cause_of(window, execution, run):
            return found
    return None


def causes_of(run: Run, execution: Execution) -> set[Cause]:
    """Every fault that hit the execution."""
    return {found for window in run.windows if (found := _cause_of(window, execution, run))}


def why_again(run: Run, first: Execution, again: Execution) -> Cause | Literal["retry", "unexplained"]:
    """What made a job's body run again: its own error, a fault, or nothing that anybody knows of."""
    found = cause(run, first)
    if is_retry(first, again) and (not found or _waited_out(run, first, again)):
        return "retry"
    if not found and again.attempt <= first.attempt:
        found = cause(run, again)
    return found or "unexplained"


def is_retry(first: Execution, again: Execution) -> bool:
    """Whether the first had failed before the next attempt started."""
    closed_first = first.close_ns is not None and first.close_ns <= again.start_ns
    return first.event == "error" and closed_first and again.attempt > first.attempt


def backoff_seconds(run: Run, failed: Execution) -> float:
    """How long after this attempt's error the next may start, at the earliest."""
    return run.settings.backoff_base_seconds * run.settings.backoff_factor ** (failed.attempt - 1)


def _waited_out(run: Run, failed: Execution, again: Execution) -> bool:
    waited_ns = again.start_ns - (failed.close_ns or again.start_ns)
    return waited_ns >= backoff_seconds(run, failed) * SECOND


def _cause_of(window: Window, execution: Execution, run: Run) -> Cause | None:
    last_ns = window.onset_ns if execution.close_ns is None else execution.close_ns + SETTLE_NS
    if window.fault in CAUSES and window.pid == execution.pid:
        if window.fault == "pause" and window.healed_ns is not None:
            window = _prolonged(window, SETTLE_NS)
        return CAUSES[window.fault] if window.covers(execution.start_ns, last_ns) else None
    if is_postgres(window):
        window = _prolonged(window, round(run.settings.lease_seconds * SECOND) + SETTLE_NS)
        return "postgres" if window.covers(execution.start_ns, last_ns) else None
    return None


def is_postgres(window: Window) -> bool:
    """Whether the fault put PostgreSQL, or a link to it, out of order; what only annoys it excuses nothing."""
    return window.target.store == "postgres" and window.fault not in ANNOYING


def gave_up_by_interruption(run: Run) -> bool:
    """Whether any fault could have killed a worker between claiming a job and starting its body."""
    return any(each.fault in CAUSES or is_postgres(each) for each in run.windows)


def _prolonged(window: Window, by_ns: int) -> Window:
    healed = None if window.healed_ns is None else window.healed_ns + by_ns
    return Window(window.fault, window.target, window.pid, window.invoked_ns, window.onset_ns, healed)
