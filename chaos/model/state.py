"""A state of the model: one immutable value for PostgreSQL, Redis, the API, the workers, and the truth about bodies.

Fences appear as `Hand.current` and `Job.seen`: whether a claim's fence, or the one that a rescuer saw, is still the
row's. A fence never falls, so once false it stays false, and the number itself decides nothing else.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

from chaos.model import words
from scheduler.jobs.lifecycle import RULES, Status, Transition, apply


class Row(NamedTuple):
    """A job's row."""

    status: Status = Status.PENDING
    attempt: int = 0
    holder: int = words.NOBODY
    due: bool = True
    reconcile: str = words.LATER
    letter: bool = False


class Job(NamedTuple):
    """The row, what Redis and the client know of it, and the truth: `waits`, `burned`, `body`, `finals`."""

    row: Row | None = None
    client: str = words.NEW
    queued: bool = False  # in the API's publisher
    retry: int = words.NOT_LISTED
    dlq: bool = False
    seen: bool = False  # a rescuer saw it held by the dead, under its present fence, and has not settled it yet
    dying: int = 0  # entries pending for consumers that died, their lease still running
    strays: int = 0  # the same, their lease run out
    waits: bool = False  # the back-off has not elapsed
    burned: int = 0  # attempts that failed or crashed
    body: int = words.NOT_STARTED  # of the row's present attempt
    finals: tuple[Status, ...] = ()  # every final status ever written


class Hand(NamedTuple):
    """Where a worker stands with one job; `entry`: what it is to acknowledge is pending; `ghosts`: what else is."""

    stage: str = words.EMPTY
    attempt: int = 0
    current: bool = False
    outcome: str = ""
    entry: bool = False
    ghosts: int = 0


class Tell(NamedTuple):
    """A settled outcome that Redis is to hear of; no outcome: only the acknowledgement is left."""

    job: int
    outcome: str
    entry: bool


class Worker(NamedTuple):
    """A worker's process and lease."""

    hands: tuple[Hand, ...]
    mode: str = words.ALIVE
    lease: str = words.HELD
    tell: tuple[Tell, ...] = ()

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing in hand that it knows of."""
        return not self.tell and all(hand.stage == words.EMPTY for hand in self.hands)


class Faults(NamedTuple):
    """How many of each may still happen. `lost`: a request or reply; `late`: a claim that outlives its worker."""

    crash: int = 0
    lost: int = 0
    flush: int = 0
    pause: int = 0
    outage: int = 0
    stop: int = 0
    snooze: int = 0
    cancel: int = 0
    late: int = 0
    clock: int = 0


class State(NamedTuple):
    """Everything."""

    jobs: tuple[Job, ...]
    workers: tuple[Worker, ...]
    faults: Faults
    stream: tuple[tuple[int, int], ...] = ()  # undelivered: job, and for which jobs it is younger than reconcile_at
    group: bool = True
    broken: str = ""  # the promise that the step to this state broke

    # `_replace` takes twice as long, and these two are called some ten times a state.
    def with_jobs(self, jobs: tuple[Job, ...]) -> State:
        """The same with other jobs."""
        return State(jobs, self.workers, self.faults, self.stream, self.group, self.broken)

    def with_workers(self, workers: tuple[Worker, ...]) -> State:
        """The same with other workers."""
        return State(self.jobs, workers, self.faults, self.stream, self.group, self.broken)

    def put(self, j: int, **changes: Any) -> State:
        """Change a job."""
        jobs = self.jobs
        return self.with_jobs((*jobs[:j], jobs[j]._replace(**changes), *jobs[j + 1 :]))

    def put_worker(self, w: int, **changes: Any) -> State:
        """Change a worker."""
        workers = self.workers
        return self.with_workers((*workers[:w], workers[w]._replace(**changes), *workers[w + 1 :]))

    def put_hand(self, w: int, j: int, **changes: Any) -> State:
        """Change how a worker stands with a job."""
        hands = self.workers[w].hands
        return self.put_worker(w, hands=(*hands[:j], hands[j]._replace(**changes), *hands[j + 1 :]))

    def put_row(self, j: int, **changes: Any) -> State:
        """Write columns. A new `reconcile_at` lies after everything that is queued now."""
        row = self.row(j)
        state = self.put(j, row=row._replace(**changes))
        if changes.get("reconcile", words.PASSED) != words.PASSED and row.reconcile == words.PASSED:
            return state._replace(stream=tuple((i, younger & ~(1 << j)) for i, younger in self.stream))
        return state

    def row(self, j: int) -> Row:
        """The row of a job that has one."""
        row = self.jobs[j].row
        assert row is not None
        return row

    def spend(self, fault: str) -> State:
        """One fault of that name less may happen."""
        return self._replace(faults=self.faults._replace(**{fault: getattr(self.faults, fault) - 1}))

    def breaks(self, promise: str) -> State:
        """Note the promise that this step breaks, the first one only."""
        return self if self.broken else self._replace(broken=promise)

    def publish(self, j: int) -> State:
        """Put the job's id on the stream."""
        passed = (bool(job.row and job.row.reconcile == words.PASSED) << i for i, job in enumerate(self.jobs))
        return self._replace(stream=(*self.stream, (j, sum(passed))))


def start(jobs: int, workers: int, faults: Faults) -> State:
    """Nothing has happened."""
    return State((Job(),) * jobs, (Worker((Hand(),) * jobs),) * workers, faults)


def move(state: State, j: int, transition: Transition, *, burned: int = 0, **columns: Any) -> State:
    """Change a row by the product's table. An arrow that is not in it breaks the state, and is looked at no further."""
    job, row, rule = state.jobs[j], state.row(j), RULES[transition]
    status, attempt = rule.target, row.attempt + (rule.attempt or 0)
    try:
        status, attempt = apply(row.status, row.attempt, transition)
    except ValueError:
        state = state.breaks("fencing" if row.status.is_final else "lifecycle")  # the steps name what they know better
    restarts = transition in (Transition.CLAIM, Transition.SNOOZE, Transition.RELEASE)
    state = state.put(
        j,
        seen=False,
        burned=job.burned + burned,
        body=words.NOT_STARTED if restarts else job.body,
        finals=(*job.finals, status) if status.is_final else job.finals,
    )
    reconcile = words.AT_ONCE if rule.at_once else words.LATER
    letter = row.letter or status is Status.FAILED
    values = {"holder": words.NOBODY, "due": True, "reconcile": reconcile, "letter": letter}
    return state.put_row(j, status=status, attempt=attempt, **(values | columns))


def canonical(state: State) -> State:
    """Workers are alike: of the states that differ by their order only, one."""
    workers = state.workers
    if all(a < b for a, b in pairwise(workers)):
        return state
    held = [[job.row is not None and job.row.holder == w for job in state.jobs] for w in range(len(workers))]
    order = sorted(range(len(workers)), key=lambda w: (workers[w], held[w]))
    place = {w: at for at, w in enumerate(order)}
    jobs = tuple(
        job._replace(row=job.row._replace(holder=place.get(job.row.holder, job.row.holder))) if job.row else job
        for job in state.jobs
    )
    return state._replace(jobs=jobs, workers=tuple(workers[w] for w in order))
