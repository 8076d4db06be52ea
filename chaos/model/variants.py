"""The protocol with one rule replaced: what each rule is for, shown by what its absence breaks.

A variant that bears the name of a control in `chaos.controls` is the same mistake, and must break the same promise. The
harmless ones lose nothing: they mark what the protocol does not rest on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from chaos.model import words
from chaos.model.explore import Bounds, Result, explore
from chaos.model.protocol import Protocol
from chaos.model.state import Faults, Hand, Row, State, Tell, Worker, move
from chaos.model.steps import Steps
from scheduler.jobs.lifecycle import RULES, Status, Transition


class Case(NamedTuple):
    """A variant, the promise it breaks (a harmless one breaks none), and the faults it is given."""

    name: str
    does: str
    breaks: str
    faults: Faults
    max_attempts: int = 2
    jobs: int = 1
    protocol: type[Protocol] = Protocol
    table: Mapping[Transition, Mapping[str, Any]] = {}  # what its table of transitions says otherwise

    def explore(self) -> Result:
        """What the explorer finds within these bounds."""
        with rules(self.table):
            bounds = Bounds(self.faults, jobs=self.jobs, max_attempts=self.max_attempts)
            return explore(self.protocol(self.max_attempts), bounds)


@contextmanager
def rules(table: Mapping[Transition, Mapping[str, Any]]) -> Iterator[None]:
    """The product's own table with other columns, for as long as it takes."""
    kept = dict(RULES)
    RULES.update({transition: replace(RULES[transition], **columns) for transition, columns in table.items()})
    try:
        yield
    finally:
        RULES.update(kept)


NONE, CRASH, LOST, FLUSH, PAUSE = Faults(), Faults(crash=1), Faults(lost=1), Faults(flush=1), Faults(pause=1)
CLOCK = Faults(clock=1)
OUTAGE, STOP, LATE = Faults(outage=1), Faults(stop=1), Faults(crash=1, late=1)
BROKEN: list[Case] = []
HARMLESS: list[Case] = []
Variant = Callable[[type[Protocol]], type[Protocol]]


def broken(name: str, does: str, breaks: str, faults: Faults = NONE, max_attempts: int = 2) -> Variant:
    """The decorated protocol does so, and must break that promise."""

    def enter(protocol: type[Protocol]) -> type[Protocol]:
        BROKEN.append(Case(name, does, breaks, faults, max_attempts, protocol=protocol))
        return protocol

    return enter


def harmless(name: str, does: str, faults: Faults, max_attempts: int = 2) -> Variant:
    """The decorated protocol does so, and must break nothing."""

    def enter(protocol: type[Protocol]) -> type[Protocol]:
        HARMLESS.append(Case(name, does, "", faults, max_attempts, protocol=protocol))
        return protocol

    return enter


def without(*words_of_labels: str) -> type[Protocol]:
    """The protocol without the steps whose labels hold one of these words."""

    class Without(Protocol):
        def steps(self, s: State) -> Steps:
            return (each for each in super().steps(s) if not any(word in each[1][0] for word in words_of_labels))

    return Without


@broken("settle-before-body", "writes the final status at the claim", "at-least-once")
class SettleBeforeBody(Protocol):
    def claimed(self, s: State, w: int, j: int, row: Row) -> State:
        return move(super().claimed(s, w, j, row), j, Transition.COMPLETE)


@broken("no-fence", "settles without presenting the fence", "fencing", PAUSE)
class NoFence(Protocol):
    def may_settle(self, hand: Hand, row: Row) -> bool:
        """Any worker that has run the job may."""
        return True


@broken("fence-is-attempt", "fences by the attempt number", "fencing", Faults(lost=1, snooze=1))
class FenceIsAttempt(Protocol):
    def may_settle(self, hand: Hand, row: Row) -> bool:
        """Whoever holds the number may; after a snooze the same number is given out again."""
        return hand.attempt == row.attempt and row.status is Status.PROCESSING


@broken("no-status-guard", "claims whatever status a job has", "repetition")
class NoStatusGuard(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return s.workers[w].lease == words.HELD and row.due


@broken("no-due-guard", "claims before the due time", "retry-schedule")
class NoDueGuard(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return super().may_claim(s, w, row._replace(due=True))


@broken("retry-unreconciled", "leaves retries to the index", "terminal", FLUSH)
class RetryUnreconciled(Protocol):
    def is_overlooked(self, s: State, j: int, row: Row) -> bool:
        known = row.attempt == 0 or row.reconcile == words.AT_ONCE
        return known and super().is_overlooked(s, j, row)


@broken("claim-once", "refuses a worker that repeats its claim", "terminal", LOST, 1)
class ClaimOnce(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return row.status is Status.PENDING and super().may_claim(s, w, row)


@broken("repeat-needs-lease", "repeats a claim only while the lease holds", "terminal", Faults(lost=1, outage=1), 1)
class RepeatNeedsLease(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return s.workers[w].lease == words.HELD and super().may_claim(s, w, row)


@harmless("no-lease-guard", "claims without a lease", PAUSE, 1)
class NoLeaseGuard(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return super().may_claim(s.put_worker(w, lease=words.HELD), w, row)


@broken("no-outbox", "publishes first, inserts then", "terminal")
class NoOutbox(Protocol):
    def api(self, s: State, j: int) -> Steps:
        """The entry is published before the row is inserted."""
        if s.jobs[j].client in (words.ASKED, words.ASKED_AGAIN) and not s.jobs[j].queued:
            yield True, ("the API publishes {j}, before there is a row", 0, j), s.put(j, queued=True).publish(j)
        else:
            yield from super().api(s.put(j, queued=False), j)

    def insert(self, s: State, j: int) -> State:
        return super().insert(s, j).put(j, queued=False)

    def is_overlooked(self, s: State, j: int, row: Row) -> bool:
        return row.attempt > 0 and super().is_overlooked(s, j, row)


@broken("keys-ignored", "forgets idempotency keys", "idempotent-submit", LOST)
class KeysIgnored(Protocol):
    def insert(self, s: State, j: int) -> State:
        second = s.jobs[j].client == words.ASKED_AGAIN and s.jobs[j].row is not None
        return super().insert(s.breaks("idempotent-submit") if second else s, j)


@broken("one-look", "looks for orphans at a death only", "terminal", LATE, 1)
class OneLook(Protocol):
    def is_orphan(self, s: State, row: Row) -> bool:
        return row.holder not in (words.GONE, words.LEFT) and super().is_orphan(s, row)


@broken("forget-first", "so, and deletes a lease at the look, before the settle", "terminal", Faults(crash=2), 1)
class ForgetFirst(OneLook):
    def looked(self, s: State, lost: list[int]) -> State:
        """The holder's lease is gone before its jobs are given back."""
        for j in lost:
            s = s.put_row(j, holder=words.GONE if s.row(j).holder == words.DEAD else s.row(j).holder)
        return super().looked(s, lost)

    def kill(self, s: State, w: int, worker: Worker) -> State:
        """It was the rescuer: what it saw, nobody knows."""
        killed = super().kill(s, w, worker)
        return killed.with_jobs(tuple(job._replace(seen=False) for job in killed.jobs))


@broken("stale-look", "settles what it saw, whoever lives by then", "repetition", PAUSE, 1)
class StaleLook(Protocol):
    def may_take(self, s: State, row: Row) -> bool:
        return True


@broken("hasty-rescuer", "rescues as soon as PostgreSQL is back", "repetition", OUTAGE)
class HastyRescuer(Protocol):
    def may_rescue(self, s: State) -> bool:
        return any(worker.mode == words.ALIVE and worker.lease == words.HELD for worker in s.workers)


@broken("first-look", "takes a lease for over at the first look", "repetition", CLOCK, 1)
class FirstLook(Protocol):
    def has_looked_twice(self, s: State) -> bool:
        return True


@broken("heartbeat-off", "a live worker does not renew its lease", "repetition")
class HeartbeatOff(HastyRescuer):
    """The rescuer waits, which does not help: a live worker does not renew."""

    def worker(self, s: State, w: int) -> Steps:
        """It may miss its renewal at any time."""
        yield from super().worker(s, w)
        if s.workers[w].mode == words.ALIVE and s.workers[w].lease == words.HELD:
            yield False, ("{w} does not renew its lease", w, 0), s.put_worker(w, lease=words.MISSED)


@harmless("rescue-untold", "rescues, and tells Redis nothing", CRASH)
class RescueUntold(Protocol):
    def tell_rescued(self, s: State, jobs: list[int]) -> State:
        """Redis hears nothing; the reconciler finds the row later."""
        return s


@broken("poison-forever", "rescues without end", "retry-bound", CRASH, 1)
class PoisonForever(Protocol):
    def rescued(self, s: State, j: int) -> State:
        """Whatever the number of attempts, the job is given back."""
        return move(s, j, Transition.RESCUE, burned=1)


@broken("leaves-holding", "stops in order, and gives back only what it knows of", "release", Faults(lost=1, stop=1), 1)
class LeavesHolding(Protocol):
    def give_back(self, s: State, w: int, j: int) -> Steps:
        return self.leave(s.put_row(j, holder=words.LEFT), w)


@broken("dlq-first", "writes the DLQ entry before the row", "dlq-exact")
class DlqFirst(Protocol):
    def settle(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """The entry is written first, then the row."""
        if hand.outcome == Transition.FAIL and not s.jobs[j].dlq:
            yield True, ("{w} puts {j} on the DLQ stream, before the row says so", w, j), s.put(j, dlq=True)
        else:
            yield from super().settle(s, w, j, hand)


@broken("dlq-missing", "writes no DLQ entry", "dlq-exact", NONE, 1)
class DlqMissing(Protocol):
    def reconcile_dlq(self, s: State, j: int) -> Steps:
        """No entry is repaired."""
        yield from ()

    def index(self, s: State, w: int, tell: Tell) -> State:
        """Whatever was told, the DLQ stream has no entry."""
        return super().index(s, w, tell).put(tell.job, dlq=False)

    def tell_rescued(self, s: State, jobs: list[int]) -> State:
        """The same for what a rescue buries."""
        told = super().tell_rescued(s, jobs)
        return told._replace(jobs=tuple(job._replace(dlq=False) for job in told.jobs))


@harmless("rescue-by-redelivery", "rescues by redelivery, while Redis forgets nothing", CRASH, 1)
@broken(
    "rescue-by-redelivery",
    "a dead worker's job comes back with its pending entry only",
    "terminal",
    Faults(crash=1, flush=1),
    1,
)
class RescueByRedelivery(Protocol):
    """What many queues do: a dead worker's job comes back with its pending entry, and only so."""

    def rescue(self, s: State) -> Steps:
        """No rescuer looks for orphans."""
        yield from ()

    def claim(self, s: State, w: int, j: int) -> Steps:
        """Who is handed the entry finds the holder dead, and rescues the job itself."""
        row = s.jobs[j].row
        if row and self.is_orphan(s, row):
            yield True, ("{w} finds the worker of {j} dead", w, j), self.rescued(s, j)
        else:
            yield from super().claim(s, w, j)


@harmless("early-ack", "acknowledges first; leases rescue", CRASH)
class EarlyAck(Protocol):
    def settle(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """Acknowledge first, settle then."""
        if hand.entry:
            yield True, ("{w} acknowledges {j}, before it has settled it", w, j), s.put_hand(w, j, entry=False)
        else:
            yield from super().settle(s, w, j, hand)


@broken("ack-before-settle", "so, and acknowledges first", "terminal", CRASH, 1)
class AckBeforeSettle(EarlyAck, RescueByRedelivery):
    pass


@harmless("noack", "reads without pending entries", CRASH)
@harmless("noack", "reads without pending entries", LOST)
class NoAck(Protocol):
    def read(self, s: State, w: int, j: int) -> Steps:
        """What is read is pending nowhere."""
        ghosts = s.workers[w].hands[j].ghosts
        for fair, label, to in super().read(s, w, j):
            yield fair, label, to.put_hand(w, j, entry=False, ghosts=ghosts)


@harmless("group-at-end", "makes the group at the stream's end", FLUSH)
class GroupAtEnd(Protocol):
    def create_group(self, s: State) -> State:
        """The group starts behind all entries, which then nobody reads."""
        return super().create_group(s)._replace(stream=())


broken("rescuer-off", "nobody gives back what the dead hold", "terminal", CRASH, 1)(without("rescuer", "adopts"))
broken("reconciler-off", "nobody publishes what Redis has not", "terminal", FLUSH)(without("reconciler"))
broken("promoter-off", "nobody moves what is due", "redis-empty")(without("promoter"))
broken("sweep-off", "never reads its own pending entries", "redis-empty", LOST, 1)(without("sweeps"))
broken("adopt-off", "leaves the entries of the dead pending", "redis-empty", CRASH, 1)(without("adopts"))

RETRY, RESCUE, RELEASE = Transition.RETRY, Transition.RESCUE, Transition.RELEASE
for name, does, breaks, faults, transition, column in (
    ("retry-due-lost", "keeps due times in Redis alone", "retry-schedule", NONE, RETRY, {"moves_due": False}),
    ("crashes-uncounted", "gives the attempt back at a rescue", "retry-bound", CRASH, RESCUE, {"attempt": -1}),
    ("attempts-uncounted", "gives the attempt back at a retry", "retry-bound", NONE, RETRY, {"attempt": -1}),
    ("release-burns", "keeps the attempt at a release", "release", STOP, RELEASE, {"attempt": 0}),
):
    BROKEN.append(Case(name, does, breaks, faults, table={transition: column}))


def _healthy(faults: Faults, max_attempts: int = 2, jobs: int = 1) -> Case:
    return Case("healthy", "the protocol as it is", "", faults, max_attempts, jobs)


HEALTHY = (
    _healthy(Faults(snooze=1, cancel=1)),
    _healthy(LATE),
    _healthy(LOST),
    _healthy(FLUSH),
    _healthy(STOP),
    _healthy(PAUSE, 1),
    _healthy(CLOCK, 1),
    _healthy(Faults(lost=1, outage=1), 1),
    _healthy(Faults(lost=1, stop=1), 1),
    _healthy(Faults(crash=1, lost=1), 1),
)
DEEP = (
    _healthy(PAUSE),
    _healthy(OUTAGE),
    _healthy(Faults(crash=2)),
    _healthy(Faults(crash=1, lost=1)),
    _healthy(Faults(crash=1, clock=1), 1),
    _healthy(Faults(crash=1, flush=1)),
    _healthy(CRASH, 3),
    _healthy(Faults(lost=1, pause=1), 1),
    _healthy(Faults(outage=1, pause=1), 1),
    _healthy(Faults(lost=2), 1),
    _healthy(Faults(crash=1, flush=1, pause=1), 1),
    _healthy(NONE, 1, jobs=2),
)


class Explored(NamedTuple):
    """A case and what the explorer found: how many states, the promise that breaks, how long the shortest way is."""

    case: Case
    states: int
    violated: str
    steps: int

    @property
    def as_expected(self) -> bool:
        """Whether just that promise breaks which should."""
        return self.violated == self.case.breaks


def report(*, deep: bool = False) -> list[Explored]:
    """Every case: the healthy protocol, then one rule after the other replaced, then what must do no harm."""
    cases = (*HEALTHY, *(DEEP if deep else ()), *BROKEN, *HARMLESS)
    results = ((case, case.explore()) for case in cases)
    return [Explored(case, found.states, found.violated, len(found.trace)) for case, found in results]
