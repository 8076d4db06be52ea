"""The protocol with one rule replaced: what each rule is for, shown by what its absence breaks.

A variant that bears the name of a control in `chaos.controls` is the same mistake, and must break the same promise. The
harmless ones lose nothing: they mark what the protocol does not rest on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

from chaos.model.explore import Bounds, Result, explore
from chaos.model.protocol import Protocol
from chaos.model.state import Client, Faults, Hand, Holder, Lease, Mode, Reconcile, Row, State, Tell, move
from chaos.model.steps import Steps
from scheduler.jobs.lifecycle import RULES, Status, Transition


def nothing(*_: Any, **__: Any) -> Steps:
    yield from ()


class SettleBeforeBody(Protocol):
    def claimed(self, s: State, w: int, j: int) -> State | None:
        claimed = super().claimed(s, w, j)
        return claimed and move(claimed, j, Transition.COMPLETE)


class NoFence(Protocol):
    def may_settle(self, hand: Hand, row: Row) -> bool:
        return True


class FenceIsAttempt(Protocol):
    def may_settle(self, hand: Hand, row: Row) -> bool:
        return hand.attempt == row.attempt and row.status is Status.PROCESSING


class NoStatusGuard(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return s.workers[w].lease == Lease.HELD and row.due


class NoDueGuard(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return super().may_claim(s, w, row._replace(due=True))


class RetryDueLost(Protocol):
    def settled(self, s: State, j: int, hand: Hand, outcome: Transition) -> State:
        return super().settled(s, j, hand, outcome).put_row(j, due=True)


class RetryUnreconciled(Protocol):
    def is_overlooked(self, s: State, j: int, row: Row) -> bool:
        known = row.attempt == 0 or row.reconcile == Reconcile.AT_ONCE
        return known and super().is_overlooked(s, j, row)


class ClaimOnce(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return row.status is Status.PENDING and super().may_claim(s, w, row)


class RepeatNeedsLease(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return s.workers[w].lease == Lease.HELD and super().may_claim(s, w, row)


class NoLeaseGuard(Protocol):
    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return super().may_claim(s.put_worker(w, lease=Lease.HELD), w, row)


class NoOutbox(Protocol):
    def api(self, s: State, j: int) -> Steps:
        if s.jobs[j].client in (Client.ASKED, Client.ASKED_AGAIN) and not s.jobs[j].queued:
            yield True, ("the API publishes {j}, before there is a row", 0, j), s.put(j, queued=True).publish(j)
        else:
            yield from super().api(s.put(j, queued=False), j)

    def insert(self, s: State, j: int) -> State:
        return super().insert(s, j).put(j, queued=False)

    def is_overlooked(self, s: State, j: int, row: Row) -> bool:
        return row.attempt > 0 and super().is_overlooked(s, j, row)


class KeysIgnored(Protocol):
    def insert(self, s: State, j: int) -> State:
        second = s.jobs[j].client == Client.ASKED_AGAIN and s.jobs[j].row is not None
        return super().insert(s.breaks("idempotent-submit") if second else s, j)


class RescuerOff(Protocol):
    rescue = adopt = nothing


class ReconcilerOff(Protocol):
    reconcile = reconcile_dlq = nothing


class SweepOff(Protocol):
    sweep = nothing


class AdoptOff(Protocol):
    adopt = nothing


class PromoterOff(Protocol):
    def keepers(self, s: State) -> Steps:
        return (step for step in super().keepers(s) if "promoter" not in step[1][0])


class OneLook(Protocol):
    def is_orphan(self, s: State, row: Row) -> bool:
        return row.holder not in (Holder.GONE, Holder.LEFT) and super().is_orphan(s, row)


class HastyRescuer(Protocol):
    def may_rescue(self, s: State) -> bool:
        return any(worker.mode == Mode.ALIVE and worker.lease == Lease.HELD for worker in s.workers)


class HeartbeatOff(HastyRescuer):
    """The rescuer waits, but in vain: a live worker does not renew."""

    def worker(self, s: State, w: int) -> Steps:
        yield from super().worker(s, w)
        if s.workers[w].mode == Mode.ALIVE and s.workers[w].lease == Lease.HELD:
            yield False, ("{w} does not renew its lease", w, 0), s.put_worker(w, lease=Lease.MISSED)


class RescueUntold(Protocol):
    def tell_rescued(self, s: State, jobs: list[int]) -> State:
        return s


class PoisonForever(Protocol):
    def rescued(self, s: State, j: int) -> State:
        return move(s, j, Transition.RESCUE, burned=1, reconcile=Reconcile.AT_ONCE)


class DlqFirst(Protocol):
    def settle(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        if hand.outcome == Transition.FAIL and not s.jobs[j].dlq:
            yield True, ("{w} puts {j} on the DLQ stream, before the row says so", w, j), s.put(j, dlq=True)
        else:
            yield from super().settle(s, w, j, hand)


class DlqMissing(Protocol):
    reconcile_dlq = nothing

    def index(self, s: State, w: int, tell: Tell) -> State:
        return super().index(s, w, tell).put(tell.job, dlq=False)

    def tell_rescued(self, s: State, jobs: list[int]) -> State:
        told = super().tell_rescued(s, jobs)
        for j in jobs:
            told = told.put(j, dlq=False)
        return told


class RescueByRedelivery(Protocol):
    """What many queues do: a dead worker's job comes back with its pending entry, and only so."""

    rescue = nothing

    def claim(self, s: State, w: int, j: int) -> Steps:
        row = s.jobs[j].row
        if row and self.is_orphan(s, row):
            yield True, ("{w} finds the worker of {j} dead", w, j), self.rescued(s, j)
        else:
            yield from super().claim(s, w, j)


class NoAck(Protocol):
    def read(self, s: State, w: int, j: int) -> Steps:
        ghosts = s.workers[w].hands[j].ghosts
        for fair, label, to in super().read(s, w, j):
            yield fair, label, to.put_hand(w, j, entry=False, ghosts=ghosts)


class EarlyAck(Protocol):
    def settle(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        if hand.entry:
            yield True, ("{w} acknowledges {j}, before it has settled it", w, j), s.put_hand(w, j, entry=False)
        else:
            yield from super().settle(s, w, j, hand)


class AckBeforeSettle(EarlyAck, RescueByRedelivery):
    pass


class GroupAtEnd(Protocol):
    def create_group(self, s: State) -> State:
        return super().create_group(s)._replace(stream=())


class LeavesHolding(Protocol):
    def give_back(self, s: State, j: int) -> State:
        return s.put_row(j, holder=Holder.LEFT)


class Case(NamedTuple):
    """A variant, the promise it breaks (a harmless one breaks none), and the faults it is given."""

    name: str
    does: str
    breaks: str
    faults: Faults
    protocol: type[Protocol] = Protocol
    attempts: Mapping[Transition, int] = {}  # what the table adds to `attempt`, changed
    max_attempts: int = 2
    jobs: int = 1

    def explore(self) -> Result:
        with rules(self.attempts):
            bounds = Bounds(self.faults, jobs=self.jobs, max_attempts=self.max_attempts)
            return explore(self.protocol(self.max_attempts), bounds)


@contextmanager
def rules(attempts: Mapping[Transition, int]) -> Iterator[None]:
    """The product's own table with other counts, for as long as it takes."""
    kept = dict(RULES)
    RULES.update({transition: replace(RULES[transition], attempt=count) for transition, count in attempts.items()})
    try:
        yield
    finally:
        RULES.update(kept)


NONE, CRASH, LOST, FLUSH, PAUSE = Faults(), Faults(crash=1), Faults(lost=1), Faults(flush=1), Faults(pause=1)
OUTAGE, STOP, LATE = Faults(outage=1), Faults(stop=1), Faults(crash=1, late=1)
RETRY, RESCUE, RELEASE = Transition.RETRY, Transition.RESCUE, Transition.RELEASE


def _healthy(faults: Faults, max_attempts: int = 2, jobs: int = 1) -> Case:
    return Case("healthy", "the protocol as it is", "", faults, max_attempts=max_attempts, jobs=jobs)


HEALTHY = (
    _healthy(Faults(snooze=1, cancel=1)),
    _healthy(LATE),
    _healthy(LOST),
    _healthy(FLUSH),
    _healthy(STOP),
    _healthy(PAUSE, max_attempts=1),
    _healthy(Faults(lost=1, outage=1), max_attempts=1),
    _healthy(Faults(lost=1, stop=1), max_attempts=1),
    _healthy(Faults(crash=1, lost=1), max_attempts=1),
)

BROKEN = (
    Case("settle-before-body", "writes the final status at the claim", "at-least-once", NONE, SettleBeforeBody),
    Case("no-fence", "settles without presenting the fence", "fencing", PAUSE, NoFence),
    Case("fence-is-attempt", "fences by the attempt number", "fencing", Faults(lost=1, snooze=1), FenceIsAttempt),
    Case("no-status-guard", "claims whatever status a job has", "repetition", NONE, NoStatusGuard),
    Case("no-due-guard", "claims before the due time", "retry-schedule", NONE, NoDueGuard),
    Case("retry-due-lost", "keeps due times in Redis alone", "retry-schedule", NONE, RetryDueLost),
    Case("retry-unreconciled", "leaves retries to the index", "terminal", FLUSH, RetryUnreconciled),
    Case("claim-once", "refuses a worker that repeats its claim", "terminal", LOST, ClaimOnce, max_attempts=1),
    Case(
        "repeat-needs-lease",
        "repeats a claim only while the lease holds",
        "terminal",
        Faults(lost=1, outage=1),
        RepeatNeedsLease,
        max_attempts=1,
    ),
    Case("no-outbox", "publishes first, inserts then", "terminal", NONE, NoOutbox),
    Case("keys-ignored", "forgets idempotency keys", "idempotent-submit", LOST, KeysIgnored),
    Case("rescuer-off", "nobody gives back what the dead hold", "terminal", CRASH, RescuerOff, max_attempts=1),
    Case("one-look", "looks for orphans at a death only", "terminal", LATE, OneLook, max_attempts=1),
    Case("hasty-rescuer", "rescues as soon as PostgreSQL is back", "repetition", OUTAGE, HastyRescuer),
    Case("heartbeat-off", "a live worker does not renew its lease", "repetition", NONE, HeartbeatOff),
    Case("reconciler-off", "nobody publishes what Redis has not", "terminal", FLUSH, ReconcilerOff),
    Case("promoter-off", "nobody moves what is due", "redis-empty", NONE, PromoterOff),
    Case("sweep-off", "never reads its own pending entries", "redis-empty", LOST, SweepOff, max_attempts=1),
    Case("adopt-off", "leaves the entries of the dead pending", "redis-empty", CRASH, AdoptOff, max_attempts=1),
    Case("poison-forever", "rescues without end", "retry-bound", CRASH, PoisonForever, max_attempts=1),
    Case("crashes-uncounted", "gives the attempt back at a rescue", "retry-bound", CRASH, attempts={RESCUE: -1}),
    Case("attempts-uncounted", "gives the attempt back at a retry", "retry-bound", NONE, attempts={RETRY: -1}),
    Case("release-burns", "keeps the attempt at a release", "release", STOP, attempts={RELEASE: 0}),
    Case(
        "leaves-holding",
        "stops in order, and gives back only what it knows of",
        "release",
        Faults(lost=1, stop=1),
        LeavesHolding,
        max_attempts=1,
    ),
    Case("dlq-first", "writes the DLQ entry before the row", "dlq-exact", NONE, DlqFirst),
    Case("dlq-missing", "writes no DLQ entry", "dlq-exact", NONE, DlqMissing, max_attempts=1),
    Case(
        "rescue-by-redelivery",
        "a dead worker's job comes back with its pending entry only",
        "terminal",
        Faults(crash=1, flush=1),
        RescueByRedelivery,
        max_attempts=1,
    ),
    Case("ack-before-settle", "so, and acknowledges first", "terminal", CRASH, AckBeforeSettle, max_attempts=1),
)

HARMLESS = (
    Case(
        "rescue-by-redelivery", "the same, while Redis forgets nothing", "", CRASH, RescueByRedelivery, max_attempts=1
    ),
    Case("rescue-untold", "rescues, and tells Redis nothing", "", CRASH, RescueUntold),
    Case("early-ack", "acknowledges first; leases rescue", "", CRASH, EarlyAck),
    Case("noack", "reads without pending entries", "", CRASH, NoAck),
    Case("noack", "reads without pending entries", "", LOST, NoAck),
    Case("group-at-end", "makes the group at the stream's end", "", FLUSH, GroupAtEnd),
    Case("no-lease-guard", "claims without a lease", "", PAUSE, NoLeaseGuard, max_attempts=1),
)

DEEP = (
    _healthy(PAUSE),
    _healthy(OUTAGE),
    _healthy(Faults(crash=2)),
    _healthy(Faults(crash=1, lost=1)),
    _healthy(Faults(crash=1, flush=1)),
    _healthy(CRASH, max_attempts=3),
    _healthy(Faults(lost=1, pause=1), max_attempts=1),
    _healthy(Faults(lost=2), max_attempts=1),
    _healthy(Faults(crash=1, flush=1, pause=1), max_attempts=1),
    _healthy(NONE, max_attempts=1, jobs=2),
)


class Explored(NamedTuple):
    """A case and what the explorer found: how many states, the promise that breaks, how long the shortest way is."""

    case: Case
    states: int
    violated: str
    steps: int

    @property
    def as_expected(self) -> bool:
        return self.violated == self.case.breaks


def report(*, deep: bool = False) -> list[Explored]:
    """Every case: the healthy protocol, then one rule after the other replaced, then what must do no harm."""
    found = []
    for case in (*HEALTHY, *(DEEP if deep else ()), *BROKEN, *HARMLESS):
        result = case.explore()
        found.append(Explored(case, result.states, result.violated, len(result.trace)))
    return found
