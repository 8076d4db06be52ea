"""The steps of the API and of a worker, one small method each, so that a variant replaces one and nothing else.

A step is (fair, label, next state). Fair steps are the protocol at work and time passing: what can be done again and
again is done. The others, faults and what clients choose to do, may happen or not.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.model.state import Body, Client, Hand, Lease, Mode, Retry, Row, Stage, State, Tell, move
from scheduler.jobs.lifecycle import RULES, Status, Transition

Label = tuple[str, int, int]  # text, worker, job
Step = tuple[bool, Label, State]
Steps = Iterator[Step]


class ApiSteps:
    """Insert, commit, answer; publish."""

    def api(self, s: State, j: int) -> Steps:
        job = s.jobs[j]
        if job.client == Client.NEW:
            yield False, ("a client submits {j}", 0, j), s.put(j, client=Client.ASKED)
        elif job.client == Client.UNSURE:
            yield False, ("the client submits {j} again, with its key", 0, j), s.put(j, client=Client.ASKED_AGAIN)
        elif job.client in (Client.ASKED, Client.ASKED_AGAIN):
            yield True, ("the API inserts {j}", 0, j), self.insert(s, j)
            if s.faults.lost and job.row is None:
                inserted = self.insert(s, j).put(j, client=Client.ASKED, queued=False).spend("lost")
                yield False, ("the API inserts {j}; the reply is lost", 0, j), inserted
        elif job.client == Client.COMMITTED:
            yield from self.answer(s, j)
        if job.queued:
            yield True, ("the API publishes {j}", 0, j), s.put(j, queued=False).publish(j)
            if s.faults.lost:
                yield False, ("publishing {j} does not reach Redis", 0, j), s.put(j, queued=False).spend("lost")

    def insert(self, s: State, j: int) -> State:
        """The repeat of a statement finds its own row, and publishes it; the repeat of a request finds its key."""
        job = s.jobs[j]
        own = job.row is None or job.client == Client.ASKED
        return s.put(j, row=job.row or Row(), client=Client.COMMITTED, queued=job.queued or own)

    def answer(self, s: State, j: int) -> Steps:
        yield True, ("the API answers for {j}", 0, j), s.put(j, client=Client.TOLD)
        if s.faults.lost:
            yield False, ("the API answers for {j}; the answer is lost", 0, j), s.put(j, client=Client.UNSURE).spend("lost")


class WorkerSteps:
    """Read, claim, run, settle, tell Redis, acknowledge."""

    max_attempts: int

    def worker(self, s: State, w: int) -> Steps:
        worker = s.workers[w]
        if worker.mode not in (Mode.ALIVE, Mode.DRAINING):
            return
        if worker.lease != Lease.HELD:
            yield True, ("{w} renews its lease", w, 0), s.put_worker(w, lease=Lease.HELD)
        if worker.mode == Mode.ALIVE and s.stream and s.group:
            yield from self.read(s, w, s.stream[0][0])
        if worker.tell:
            yield from self.tell(s, w, worker.tell[0])
        for j, hand in enumerate(worker.hands):
            if worker.mode == Mode.ALIVE:
                yield from self.reader(s, w, j, hand)
            else:
                yield from self.drain(s, w, j, hand)
            if hand.stage == Stage.RUNNING:
                yield from self.end(s, w, j, hand)
            elif hand.stage == Stage.DONE and not worker.tell:
                yield from self.settle(s, w, j, hand)

    def read(self, s: State, w: int, j: int) -> Steps:
        hand, rest = s.workers[w].hands[j], s._replace(stream=s.stream[1:])
        if hand.stage == Stage.EMPTY:
            yield True, ("{w} reads {j}", w, j), rest.put_hand(w, j, stage=Stage.DELIVERED, entry=True)
        else:  # a second delivery of what is in hand has done its duty
            yield True, ("{w} reads {j} once more, and acknowledges that", w, j), rest
        if s.faults.lost:
            ghost = rest.put_hand(w, j, ghosts=hand.ghosts + 1).spend("lost")
            yield False, ("{w} is handed {j}, and the reply is lost", w, j), ghost

    def reader(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        if hand.ghosts:
            yield from self.sweep(s, w, j, hand)
        if hand.stage == Stage.DELIVERED:
            yield from self.claim(s, w, j)
        elif hand.stage == Stage.CLAIMED:
            yield True, ("{w} starts the body of {j}, attempt " + str(hand.attempt), w, j), self.begin(s, w, j, hand)

    def sweep(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        fewer = s.put_hand(w, j, ghosts=hand.ghosts - 1)
        if hand.stage == Stage.EMPTY:
            fewer = fewer.put_hand(w, j, stage=Stage.DELIVERED, entry=True)
        yield True, ("{w} sweeps its own pending entries: {j}", w, j), fewer

    # -- claim

    def claim(self, s: State, w: int, j: int) -> Steps:
        claimed = self.claimed(s, w, j)
        if claimed is None:
            yield True, ("{w} claims {j} in vain, and acknowledges it", w, j), self.drop(s, w, j)
            if s.faults.lost:
                ghost = self.drop(s, w, j, lost=True).spend("lost")
                yield False, ("{w} claims {j} in vain; its ack is lost", w, j), ghost
            return
        hand = {"stage": Stage.CLAIMED, "attempt": claimed.row(j).attempt, "current": True}
        yield True, ("{w} claims {j}", w, j), claimed.put_hand(w, j, **hand)
        if s.faults.lost:
            yield False, ("{w} claims {j}; the reply is lost", w, j), claimed.spend("lost")

    def claimed(self, s: State, w: int, j: int) -> State | None:
        """The row after the claim; None: it changed nothing."""
        row = s.jobs[j].row
        if row is None or not self.may_claim(s, w, row):
            return None
        if s.jobs[j].waits:
            s = s.breaks("retry-schedule")
        for other, worker in enumerate(s.workers):
            if worker.hands[j].current:
                s = s.put_hand(other, j, current=False)
        if row.status is Status.PROCESSING and row.holder == w:
            return s
        if row.status is not Status.PENDING:
            s = s.breaks("repetition")
        return move(s, j, Transition.CLAIM, holder=w)

    def may_claim(self, s: State, w: int, row: Row) -> bool:
        """A repeat needs no lease: refused, the worker would go on holding a job that it does not have."""
        own = row.status is Status.PROCESSING and row.holder == w
        return own or (row.status is Status.PENDING and row.due and s.workers[w].lease == Lease.HELD)

    def drop(self, s: State, w: int, j: int, *, lost: bool = False) -> State:
        hand = s.workers[w].hands[j]
        return s.put_hand(w, j, stage=Stage.EMPTY, entry=False, ghosts=hand.ghosts + (lost and hand.entry))

    # -- run

    def begin(self, s: State, w: int, j: int, hand: Hand) -> State:
        job = s.jobs[j]
        if job.row is None:
            s = s.breaks("no-phantom")
        elif hand.attempt == job.row.attempt:
            if job.body != Body.NOT_STARTED:
                s = s.breaks("repetition")
            s = s.put(j, body=Body.STARTED)
        return s.put_hand(w, j, stage=Stage.RUNNING)

    def end(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        failure = Transition.RETRY if hand.attempt < self.max_attempts else Transition.FAIL
        well = s.put_hand(w, j, stage=Stage.DONE, outcome=Transition.COMPLETE)
        if s.row(j).attempt == hand.attempt:
            well = well.put(j, body=Body.ENDED)
        yield True, ("the body of {j} ends well on {w}", w, j), well
        yield True, ("the body of {j} fails on {w}", w, j), s.put_hand(w, j, stage=Stage.DONE, outcome=failure)
        if s.faults.snooze:
            snoozed = s.put_hand(w, j, stage=Stage.DONE, outcome=Transition.SNOOZE).spend("snooze")
            yield False, ("the body of {j} snoozes on {w}", w, j), snoozed

    def drain(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """After SIGTERM: hand back what no body has, and what bodies do not finish in time."""
        if hand.stage == Stage.DELIVERED:
            yield True, ("{w} puts {j} back on the stream", w, j), self.drop(s, w, j).publish(j)
        elif hand.stage in (Stage.CLAIMED, Stage.RUNNING):
            released = s.put_hand(w, j, stage=Stage.DONE, outcome=Transition.RELEASE)
            yield True, ("{w} gives up {j}, unfinished", w, j), released

    # -- settle

    def settle(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        row, outcome = s.row(j), Transition(hand.outcome)
        settled, heard = s, ""
        if self.may_settle(hand, row):
            settled, heard = self.settled(s, j, hand, outcome), hand.outcome
        elif hand.current and row.status is RULES[outcome].target and outcome is Transition.FAIL:
            heard = hand.outcome  # settled_as: it was us, and the reply was lost
        told = settled.put_hand(w, j, stage=Stage.EMPTY, attempt=0, current=False, outcome="", entry=False)
        told = told.put_worker(w, tell=(Tell(j, "" if heard == Transition.COMPLETE else heard, hand.entry),))
        text = "{w} settles {j}: " + outcome.value if settled is not s else "{w} settles {j} and is refused"
        yield True, (text, w, j), told
        if s.faults.lost and settled is not s:
            yield False, (text + "; the reply is lost", w, j), settled.spend("lost")

    def may_settle(self, hand: Hand, row: Row) -> bool:
        return hand.current and row.status is Status.PROCESSING

    def settled(self, s: State, j: int, hand: Hand, outcome: Transition) -> State:
        burned = int(outcome in (Transition.RETRY, Transition.FAIL))
        later = outcome in (Transition.RETRY, Transition.SNOOZE)
        if not hand.current or s.row(j).status is not Status.PROCESSING:
            s = s.breaks("fencing")
        s = move(s, j, outcome, burned=burned, due=not later)
        return s.put(j, waits=True) if later else s

    # -- tell Redis

    def tell(self, s: State, w: int, tell: Tell) -> Steps:
        j = tell.job
        if tell.outcome:
            yield True, ("{w} tells Redis of {j}: " + str(tell.outcome), w, j), self.index(s, w, tell)
        else:
            yield True, ("{w} acknowledges {j}", w, j), s.put_worker(w, tell=())
        if s.faults.lost:
            ghosts = s.workers[w].hands[j].ghosts + tell.entry
            silent = s.put_worker(w, tell=()).put_hand(w, j, ghosts=ghosts).spend("lost")
            yield False, ("what {w} tells Redis of {j} is lost", w, j), silent

    def index(self, s: State, w: int, tell: Tell) -> State:
        j = tell.job
        if tell.outcome == Transition.FAIL:
            s = s.put(j, dlq=True)
        elif tell.outcome == Transition.RELEASE:
            s = s.publish(j)
        else:
            s = s.put(j, retry=Retry.NOT_YET if s.jobs[j].waits else Retry.LISTED)
        return s.put_worker(w, tell=(tell._replace(outcome=""),))
