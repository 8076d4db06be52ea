"""The steps of the API and of a worker, one small method each, so that a variant replaces one and nothing else.

A step is (fair, label, next state). Fair steps are the protocol at work and time passing: what can be done again and
again is done. The others, faults and what clients choose to do, may happen or not.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.model import words
from chaos.model.state import Hand, Row, State, Tell, move
from scheduler.jobs.lifecycle import RULES, Status, Transition, after_failure

Label = tuple[str, int, int]  # text, worker, job
Step = tuple[bool, Label, State]
Steps = Iterator[Step]
UNHEARD = "; Redis does not hear of it"


def step(s: State, label: Label, to: State, lost: State | None = None, how: str = "; the reply is lost") -> Steps:
    """A fair step; and while a request or reply may still be lost, `lost` is how it ends then."""
    yield True, label, to
    if lost is not None and s.faults.lost:
        yield False, (label[0] + how, *label[1:]), lost.spend("lost")


class ApiSteps:
    """Insert, commit, answer; publish."""

    def api(self, s: State, j: int) -> Steps:
        """What a client and the API may do next for a job."""
        job = s.jobs[j]
        if job.client == words.NEW:
            yield False, ("a client submits {j}", 0, j), s.put(j, client=words.ASKED)
        elif job.client == words.UNSURE:
            yield False, ("the client submits {j} again, with its key", 0, j), s.put(j, client=words.ASKED_AGAIN)
        elif job.client in (words.ASKED, words.ASKED_AGAIN):
            inserted = self.insert(s, j)
            lost = inserted.put(j, client=words.ASKED, queued=False) if job.row is None else None
            yield from step(s, ("the API inserts {j}", 0, j), inserted, lost)
        elif job.client == words.COMMITTED:
            unheard = s.put(j, client=words.UNSURE)
            answered = s.put(j, client=words.TOLD)
            yield from step(s, ("the API answers for {j}", 0, j), answered, unheard, "; the answer is lost")
        if job.queued:
            unheard = s.put(j, queued=False)
            yield from step(
                s, ("the API publishes {j}", 0, j), unheard.publish(j), unheard, "; Redis does not hear of it"
            )

    def insert(self, s: State, j: int) -> State:
        """The repeat of a statement finds its own row, and publishes it; the repeat of a request finds its key."""
        job = s.jobs[j]
        own = job.row is None or job.client == words.ASKED
        return s.put(j, row=job.row or Row(), client=words.COMMITTED, queued=job.queued or own)


class WorkerSteps:
    """Read, claim, run, settle, tell Redis, acknowledge."""

    max_attempts: int

    def worker(self, s: State, w: int) -> Steps:
        """What a worker may do next; nothing while it is stopped."""
        worker = s.workers[w]
        if worker.mode not in (words.ALIVE, words.DRAINING):
            return
        if worker.lease != words.HELD:
            yield True, ("{w} renews its lease", w, 0), s.put_worker(w, lease=words.HELD)
        if worker.mode == words.ALIVE and s.stream and s.group:
            yield from self.read(s, w, s.stream[0][0])
        if worker.tell:
            yield from self.tell(s, w, worker.tell[0])
        for j, hand in enumerate(worker.hands):
            if worker.mode == words.ALIVE:
                yield from self.reader(s, w, j, hand)
            else:
                yield from self.drain(s, w, j, hand)
            if hand.stage == words.RUNNING:
                yield from self.end(s, w, j, hand)
            elif hand.stage == words.DONE and not worker.tell:
                yield from self.settle(s, w, j, hand)

    def read(self, s: State, w: int, j: int) -> Steps:
        """The stream's first entry becomes pending under its name; it hears of that unless the reply is lost."""
        hand, rest = s.workers[w].hands[j], s._replace(stream=s.stream[1:])
        if hand.stage == words.EMPTY:
            yield True, ("{w} reads {j}", w, j), rest.put_hand(w, j, stage=words.DELIVERED, entry=True)
        else:  # a second delivery of what is in hand is of no use
            yield True, ("{w} reads {j} once more, and acknowledges that", w, j), rest
        if s.faults.lost:
            ghost = rest.put_hand(w, j, ghosts=hand.ghosts + 1).spend("lost")
            yield False, ("{w} is handed {j}, and the reply is lost", w, j), ghost

    def reader(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """Before the body: sweep, claim, start."""
        if hand.ghosts:
            yield from self.sweep(s, w, j, hand)
        if hand.stage == words.DELIVERED:
            yield from self.claim(s, w, j)
        elif hand.stage == words.CLAIMED:
            yield True, ("{w} starts the body of {j}, attempt " + str(hand.attempt), w, j), self.begin(s, w, j, hand)

    def sweep(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """It meets a pending entry of its own that it never heard of; one whose job it holds it acknowledges."""
        fewer = s.put_hand(w, j, ghosts=hand.ghosts - 1)
        if hand.stage == words.EMPTY:
            fewer = fewer.put_hand(w, j, stage=words.DELIVERED, entry=True)
        yield True, ("{w} sweeps its own pending entries: {j}", w, j), fewer

    # -- claim

    def claim(self, s: State, w: int, j: int) -> Steps:
        """PENDING becomes PROCESSING, or the entry is dropped because the job is not to be had."""
        row, to = s.jobs[j].row, s
        if row is None or not self.may_claim(s, w, row):
            ghost = self.drop(s, w, j, ghosts=s.workers[w].hands[j].ghosts + s.workers[w].hands[j].entry)
            text = "{w} claims {j}, does not get it, and acknowledges it"
            yield from step(s, (text, w, j), self.drop(s, w, j), ghost, "; its ack is lost")
        else:
            to = self.claimed(s, w, j, row)
            hand = {"stage": words.CLAIMED, "attempt": to.row(j).attempt, "current": True}
            yield from step(s, ("{w} claims {j}", w, j), to.put_hand(w, j, **hand), to)

    def claimed(self, s: State, w: int, j: int, row: Row) -> State:
        """The row after the claim, and whose fence is not the row's any more."""
        own = row.status is Status.PROCESSING and row.holder == w
        if s.jobs[j].waits:
            s = s.breaks("retry-schedule")
        if row.status is not Status.PENDING and not own:
            s = s.breaks("repetition")
        for other in range(len(s.workers)):
            s = s.put_hand(other, j, current=False)
        return move(s, j, Transition.RECLAIM if own else Transition.CLAIM, holder=w)

    def may_claim(self, s: State, w: int, row: Row) -> bool:
        """A repeat needs no lease: refused, the worker would go on holding a job that it does not have."""
        own = row.status is Status.PROCESSING and row.holder == w
        return own or (row.status is Status.PENDING and row.due and s.workers[w].lease == words.HELD)

    def drop(self, s: State, w: int, j: int, **changes: int) -> State:
        """The worker's hand without the job and its entry."""
        return s.put_hand(w, j, stage=words.EMPTY, entry=False, **changes)

    # -- run

    def begin(self, s: State, w: int, j: int, hand: Hand) -> State:
        """The body starts; a second start of the same attempt is a repetition."""
        job = s.jobs[j]
        if job.row is None:
            s = s.breaks("no-phantom")
        elif hand.attempt == job.row.attempt:
            if job.body != words.NOT_STARTED:
                s = s.breaks("repetition")
            s = s.put(j, body=words.STARTED)
        return s.put_hand(w, j, stage=words.RUNNING)

    def end(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """The body succeeds, fails or snoozes, which decides the outcome and writes nothing yet."""

        def done(outcome: Transition) -> State:
            return s.put_hand(w, j, stage=words.DONE, outcome=outcome)

        well = done(Transition.COMPLETE)
        if s.row(j).attempt == hand.attempt:
            well = well.put(j, body=words.ENDED)
        yield True, ("the body of {j} ends well on {w}", w, j), well
        yield True, ("the body of {j} fails on {w}", w, j), done(after_failure(hand.attempt, self.max_attempts))
        if s.faults.snooze:
            yield False, ("the body of {j} snoozes on {w}", w, j), done(Transition.SNOOZE).spend("snooze")

    def drain(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """After SIGTERM: hand back what no body has, and what bodies do not finish in time."""
        if hand.stage == words.DELIVERED:
            yield True, ("{w} puts {j} back on the stream", w, j), self.drop(s, w, j).publish(j)
        elif hand.stage in (words.CLAIMED, words.RUNNING):
            released = s.put_hand(w, j, stage=words.DONE, outcome=Transition.RELEASE)
            yield True, ("{w} gives up {j}, unfinished", w, j), released

    # -- settle

    def settle(self, s: State, w: int, j: int, hand: Hand) -> Steps:
        """Write the outcome if the fence still holds; either way the job leaves the worker's hand."""
        row, outcome = s.row(j), Transition(hand.outcome)
        settled, heard = None, ""
        if self.may_settle(hand, row):
            settled, heard = self.settled(s, j, hand, outcome), hand.outcome
        elif hand.current and row.status is RULES[outcome].target and outcome is Transition.FAIL:
            heard = hand.outcome  # settled_as: it was us, and the reply was lost
        told = (settled or s).put_hand(w, j, stage=words.EMPTY, attempt=0, current=False, outcome="", entry=False)
        told = told.put_worker(w, tell=(Tell(j, "" if heard == Transition.COMPLETE else heard, hand.entry),))
        text = "{w} settles {j}: " + outcome.value if settled else "{w} settles {j} and is refused"
        yield from step(s, (text, w, j), told, settled)

    def may_settle(self, hand: Hand, row: Row) -> bool:
        """The fence: the claim is the row's latest, and the row is PROCESSING still."""
        return hand.current and row.status is Status.PROCESSING

    def settled(self, s: State, j: int, hand: Hand, outcome: Transition) -> State:
        """The row after its settle, the attempt burned if it failed."""
        if not hand.current or s.row(j).status is not Status.PROCESSING:
            s = s.breaks("fencing")
        burned = int(outcome in (Transition.RETRY, Transition.FAIL))
        s = move(s, j, outcome, burned=burned, due=not RULES[outcome].moves_due)
        return s.put(j, waits=True) if outcome in (Transition.RETRY, Transition.SNOOZE) else s

    # -- tell Redis

    def tell(self, s: State, w: int, tell: Tell) -> Steps:
        """Tell Redis what was settled; when there is nothing (more) to tell, acknowledge the entry."""
        j = tell.job
        silent = s.put_worker(w, tell=()).put_hand(w, j, ghosts=s.workers[w].hands[j].ghosts + tell.entry)
        if tell.outcome:
            label, to = ("{w} tells Redis of {j}: " + str(tell.outcome), w, j), self.index(s, w, tell)
        else:
            label, to = ("{w} acknowledges {j}", w, j), s.put_worker(w, tell=())
        yield from step(s, label, to, silent, ", and that is lost")

    def index(self, s: State, w: int, tell: Tell) -> State:
        """Redis after it was told: the job is on the DLQ stream, on the stream or in the retry ZSET."""
        j = tell.job
        if tell.outcome == Transition.FAIL:
            s = s.put(j, dlq=True)
        elif tell.outcome == Transition.RELEASE:
            s = s.publish(j)
        else:
            s = s.put(j, retry=words.NOT_YET if s.jobs[j].waits else words.LISTED)
        return s.put_worker(w, tell=(tell._replace(outcome=""),))
