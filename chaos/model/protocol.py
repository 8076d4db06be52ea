"""The healthy protocol: all steps together, and the promises that its states must keep."""

from __future__ import annotations

from collections.abc import Callable

from chaos.model import words
from chaos.model.keepers import FaultSteps, KeeperSteps
from chaos.model.state import Job, Row, State
from chaos.model.steps import ApiSteps, Steps, WorkerSteps
from scheduler.jobs.lifecycle import Status


class Protocol(ApiSteps, WorkerSteps, KeeperSteps, FaultSteps):
    """The healthy protocol; a variant overrides one method."""

    def __init__(self, max_attempts: int = 2) -> None:
        self.max_attempts = max_attempts

    def steps(self, s: State) -> Steps:
        """Every step that is possible in a state, of whichever process."""
        for j in range(len(s.jobs)):
            yield from self.api(s, j)
        for w in range(len(s.workers)):
            yield from self.worker(s, w)
        yield from self.keepers(s)
        yield from self.time(s)
        yield from self.faults(s)


def unsafe(s: State, max_attempts: int) -> str:
    """The promise that this state breaks for good, or nothing. The names are those of the harness's checks."""
    return s.broken or next((promise for job in s.jobs if (promise := _unsafe(job, max_attempts))), "")


def _unsafe(job: Job, max_attempts: int) -> str:
    row = job.row
    failed = row is not None and row.status is Status.FAILED
    if job.dlq and not failed:
        return "dlq-exact"
    if row is None:
        return ""
    if len(job.finals) > 1 or (job.finals and job.finals != (row.status,)):
        return "fencing"
    if row.status is Status.COMPLETED and job.body != words.ENDED:
        return "at-least-once"
    if row.letter != failed:
        return "dlq-exact"
    return _miscounted(row, job.burned, max_attempts)


def _miscounted(row: Row, burned: int, max_attempts: int) -> str:
    """`attempt` is what was burned, and the attempt that runs or has completed; what has burned all is final."""
    allowed = {Status.PROCESSING: (1,), Status.COMPLETED: (1,), Status.CANCELLED: (0, 1)}.get(row.status, (0,))
    if row.attempt - burned > max(allowed):
        return "release"
    spent = burned >= max_attempts and not row.status.is_final
    return "retry-bound" if row.attempt - burned < min(allowed) or row.attempt > max_attempts or spent else ""


def is_final(s: State) -> bool:
    """An accepted job is one that is in the table, or of which its client was told."""
    return all(job.row.status.is_final if job.row else job.client != words.TOLD for job in s.jobs)


def dlq_is_exact(s: State) -> bool:
    """Every job is final, and the DLQ stream holds just the dead letters."""
    return is_final(s) and all(job.dlq == (job.row is not None and job.row.letter) for job in s.jobs)


def redis_is_empty(s: State) -> bool:
    """Every job is final, and no stream, retry ZSET or pending entry still holds one."""
    idle = not s.stream and all(job.retry == words.NOT_LISTED and not job.dying and not job.strays for job in s.jobs)
    return idle and is_final(s) and not any(_holds_entries(s))


def _holds_entries(s: State) -> list[bool]:
    hands = [bool(hand.entry or hand.ghosts) for worker in s.workers for hand in worker.hands]
    return hands + [tell.entry for worker in s.workers for tell in worker.tell]


GOALS: dict[str, Callable[[State], bool]] = {
    "terminal": is_final,
    "dlq-exact": dlq_is_exact,
    "redis-empty": redis_is_empty,
}
