"""A state of the model: one immutable value for PostgreSQL, Redis, the API, the workers, and the truth about bodies.

Fences appear as `Hand.current`: whether a claim's fence is still the row's. A fence never falls, so once false it stays
false, and the number itself decides nothing else.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

from scheduler.jobs.lifecycle import RULES, Status, Transition, apply

# Who holds a PROCESSING row, besides a worker's index: nobody; a dead worker whose lease still runs, or ran out; one
# whose lease row is gone already, because it was declared dead, or because it stopped in order.
NOBODY, DYING, DEAD, GONE, LEFT = -1, -2, -3, -4, -5
# A row's `reconcile_at`: minus infinity, in the future, passed.
AT_ONCE, LATER, PASSED = "at once", "later", "passed"
# What the client knows. ASKED_AGAIN: the request came with a key that an earlier request of its own had used.
NEW, ASKED, ASKED_AGAIN, COMMITTED, TOLD, UNSURE = "new", "asked", "asked again", "committed", "told", "unsure"
EMPTY, DELIVERED, CLAIMED, RUNNING, DONE = "empty", "delivered", "claimed", "running", "done"
ALIVE, PAUSED, DRAINING = "alive", "paused", "draining"
# A lease, and why it ran out: its worker was stopped, or it was not renewed although its worker was well.
HELD, LAPSED, MISSED = "held", "lapsed", "missed"
NOT_STARTED, STARTED, ENDED = 0, 1, 2
NOT_LISTED, NOT_YET, LISTED = 0, 1, 2  # the retry index: no entry, one whose time has not come, one whose time has


class Row(NamedTuple):
    status: Status = Status.PENDING
    attempt: int = 0
    holder: int = NOBODY
    due: bool = True
    reconcile: str = LATER
    letter: bool = False


class Job(NamedTuple):
    """The row, what Redis and the client know of it, and the truth: `waits`, `burned`, `body`, `finals`."""

    row: Row | None = None
    client: str = NEW
    queued: bool = False  # in the API's publisher
    retry: int = NOT_LISTED
    dlq: bool = False
    dying: int = 0  # entries pending for consumers that died, their lease still running
    strays: int = 0  # the same, their lease run out
    waits: bool = False  # the back-off has not elapsed
    burned: int = 0  # attempts that failed or crashed
    body: int = NOT_STARTED  # of the row's present attempt
    finals: tuple[Status, ...] = ()  # every final status ever written


class Hand(NamedTuple):
    """Where a worker stands with one job; `entry`: what it is to acknowledge is pending; `ghosts`: what else is."""

    stage: str = EMPTY
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
    hands: tuple[Hand, ...]
    mode: str = ALIVE
    lease: str = HELD
    tell: tuple[Tell, ...] = ()

    @property
    def is_idle(self) -> bool:
        return not self.tell and all(hand.stage == EMPTY for hand in self.hands)


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


class State(NamedTuple):
    jobs: tuple[Job, ...]
    workers: tuple[Worker, ...]
    faults: Faults
    stream: tuple[tuple[int, int], ...] = ()  # undelivered: job, and for which jobs it is younger than reconcile_at
    group: bool = True
    broken: str = ""  # the promise that the step to this state broke

    # `_replace` takes twice as long, and these two are called some ten times a state.
    def with_jobs(self, jobs: tuple[Job, ...]) -> State:
        return State(jobs, self.workers, self.faults, self.stream, self.group, self.broken)

    def with_workers(self, workers: tuple[Worker, ...]) -> State:
        return State(self.jobs, workers, self.faults, self.stream, self.group, self.broken)

    def put(self, j: int, **changes: Any) -> State:
        jobs = self.jobs
        return self.with_jobs((*jobs[:j], jobs[j]._replace(**changes), *jobs[j + 1 :]))

    def put_worker(self, w: int, **changes: Any) -> State:
        workers = self.workers
        return self.with_workers((*workers[:w], workers[w]._replace(**changes), *workers[w + 1 :]))

    def put_hand(self, w: int, j: int, **changes: Any) -> State:
        workers = self.workers
        hands, mode, lease, tell = workers[w]
        worker = Worker((*hands[:j], hands[j]._replace(**changes), *hands[j + 1 :]), mode, lease, tell)
        return self.with_workers((*workers[:w], worker, *workers[w + 1 :]))

    def put_row(self, j: int, **changes: Any) -> State:
        """Write columns. A new `reconcile_at` lies after everything that is queued now."""
        row = self.row(j)
        state = self.put(j, row=row._replace(**changes))
        if changes.get("reconcile", PASSED) != PASSED and row.reconcile == PASSED:
            return state._replace(stream=tuple((i, younger & ~(1 << j)) for i, younger in self.stream))
        return state

    def row(self, j: int) -> Row:
        row = self.jobs[j].row
        assert row is not None
        return row

    def spend(self, fault: str) -> State:
        return self._replace(faults=self.faults._replace(**{fault: getattr(self.faults, fault) - 1}))

    def breaks(self, promise: str) -> State:
        return self if self.broken else self._replace(broken=promise)

    def publish(self, j: int) -> State:
        younger = sum(1 << i for i, job in enumerate(self.jobs) if job.row and job.row.reconcile == PASSED)
        return self._replace(stream=(*self.stream, (j, younger)))


def start(jobs: int, workers: int, faults: Faults) -> State:
    return State((Job(),) * jobs, (Worker((Hand(),) * jobs),) * workers, faults)


def move(state: State, j: int, transition: Transition, *, burned: int = 0, **columns: Any) -> State:
    """Change a row's status by the product's table. An arrow that is not in it is taken all the same, and noted."""
    job, row = state.jobs[j], state.row(j)
    try:
        status, attempt = apply(row.status, row.attempt, transition)
    except ValueError:
        rule = RULES[transition]
        status, attempt = rule.target, row.attempt + (rule.attempt or 0)
        state = state.breaks("fencing" if row.status.is_final else "lifecycle")  # the steps name what they know better
    restarts = transition in (Transition.CLAIM, Transition.SNOOZE, Transition.RELEASE)
    state = state.put(
        j,
        burned=job.burned + burned,
        body=NOT_STARTED if restarts else job.body,
        finals=(*job.finals, status) if status.is_final else job.finals,
    )
    values = {"holder": NOBODY, "due": True, "reconcile": LATER, "letter": row.letter or status is Status.FAILED}
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
