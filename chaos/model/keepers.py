"""The steps of what keeps the two stores in agreement (rescuer, reconciler, promoter), of time, and of what goes wrong.

Rescuer, reconciler and promoter run in every worker; the model lets them act at any time.
"""

from __future__ import annotations

from chaos.model import words
from chaos.model.state import Hand, Row, State, Worker, move
from chaos.model.steps import UNHEARD, Steps, step
from scheduler.jobs.lifecycle import Status, Transition, after_death


class KeeperSteps:
    """Rescue, adopt, reconcile, promote."""

    max_attempts: int

    def keepers(self, s: State) -> Steps:
        """Whatever any keeper may do now."""
        yield from self.rescue(s)
        yield from self.adopt(s)
        if not s.group:
            yield True, ("the group is created again", 0, 0), self.create_group(s)
        for j, job in enumerate(s.jobs):
            if job.row and s.group:
                yield from self.reconcile(s, j, job.row)
            if job.retry == words.LISTED:
                yield True, ("the promoter moves {j} to the stream", 0, j), s.put(j, retry=words.NOT_LISTED).publish(j)
            if job.dlq != (job.row is not None and job.row.letter):
                yield from self.reconcile_dlq(s, j)

    def create_group(self, s: State) -> State:
        """Whoever finds the group gone makes it at the start of the stream, so that no entry is skipped."""
        return s._replace(group=True)

    # -- rescue: a look, which changes nothing and may be long ago, and the settling of what it saw

    def rescue(self, s: State) -> Steps:
        """Settle what a look found, and look for jobs whose holder has no lease."""
        if seen := [j for j, job in enumerate(s.jobs) if job.seen]:
            yield from self.settle_dead(s, seen)
        lost = [j for j, job in enumerate(s.jobs) if job.row and not job.seen and self.is_orphan(s, job.row)]
        if lost and self.may_rescue(s):
            yield True, ("a rescuer sees that {j} has no living holder", 0, lost[0]), self.looked(s, lost)

    def looked(self, s: State, lost: list[int]) -> State:
        """What the rescuer has seen it keeps in mind; the record is as before."""
        for j in lost:
            s = s.put(j, seen=True)
        return s

    def settle_dead(self, s: State, seen: list[int]) -> Steps:
        """One statement for all that was seen: what still has no holder is given back, the rest forgotten."""
        dead = [j for j in seen if self.may_take(s, s.row(j))]
        for j in seen:
            s = self.rescued(s, j) if j in dead else s.put(j, seen=False)
        text = "a rescuer gives back {j}" if dead else "a rescuer leaves {j} to its holder"
        yield from step(s, (text, 0, seen[0]), self.tell_rescued(s, dead), s if dead else None, UNHEARD)

    def tell_rescued(self, s: State, jobs: list[int]) -> State:
        """Redis hears of it: a spent job goes on the DLQ stream, another on the stream."""
        for j in jobs:
            s = s.put(j, dlq=True) if s.row(j).status is Status.FAILED else s.publish(j)
        return s

    def may_rescue(self, s: State) -> bool:
        """A rescuer waits until it has held its own lease for one lease: by then every worker that can renew has."""
        well = _well(s)
        return words.HELD in well and words.MISSED not in well and self.has_looked_twice(s)

    def has_looked_twice(self, s: State) -> bool:
        """Seen unchanged for two beats, a lease is a dead worker's: whoever lives has renewed in between."""
        return words.STEPPED not in _well(s)

    def is_orphan(self, s: State, row: Row) -> bool:
        """What the look finds."""
        return row.status is Status.PROCESSING and not _lives(s, row)

    def may_take(self, s: State, row: Row) -> bool:
        """What the settle asks once more; the fence is known to be that of the look."""
        return not _lives(s, row)

    def rescued(self, s: State, j: int) -> State:
        """The job after its worker's death: one attempt burned, and FAILED if that was the last."""
        row = s.row(j)
        if row.holder >= 0 and s.workers[row.holder].lease != words.LAPSED:
            s = s.breaks("repetition")  # its worker is well, and no fault explains that the job runs twice
        if row.holder == words.LEFT:
            s = s.breaks("release")  # its worker stopped in order: that may cost no attempt
        return move(s, j, after_death(row.attempt, self.max_attempts), burned=1)

    def adopt(self, s: State) -> Steps:
        """Pending entries of a consumer without a lease become a live worker's, which meets them in its sweep.

        It sweeps before it adopts more: without that bound a worker that never sweeps could gather any number.
        """
        for w, worker in enumerate(s.workers):
            if worker.mode != words.ALIVE or worker.lease != words.HELD:
                continue
            for j, job in enumerate(s.jobs):
                if worker.hands[j].ghosts:
                    continue
                label = ("{w} adopts the pending entries of {j}", w, j)
                if job.strays:
                    yield True, label, s.put(j, strays=0).put_hand(w, j, ghosts=job.strays)
                for other, sleeper in enumerate(s.workers):
                    if sleeper.lease != words.HELD and (found := _pending(sleeper, j)):
                        yield True, label, _without_entries(s, other, j).put_hand(w, j, ghosts=found)

    # -- reconcile

    def reconcile(self, s: State, j: int, row: Row) -> Steps:
        """Publish a PENDING row that no index seems to hold: on the stream, or in the retry ZSET if not due."""
        if row.status is Status.PENDING and self.is_overlooked(s, j, row):
            found = s.put_row(j, reconcile=words.LATER)
            told = found.publish(j) if row.due else found.put(j, retry=words.NOT_YET)
            yield from step(s, ("the reconciler publishes {j}", 0, j), told, found, UNHEARD)

    def is_overlooked(self, s: State, j: int, row: Row) -> bool:
        """Everything published before `reconcile_at` has been delivered, and yet the row is PENDING."""
        delivered = not s.stream or bool(s.stream[0][1] >> j & 1)
        return row.reconcile == words.AT_ONCE or (row.reconcile == words.PASSED and delivered)

    def reconcile_dlq(self, s: State, j: int) -> Steps:
        """The DLQ stream gets or loses the entry, as the row says."""
        row = s.jobs[j].row
        yield True, ("the reconciler repairs the DLQ for {j}", 0, j), s.put(j, dlq=row is not None and row.letter)

    # -- time

    def time(self, s: State) -> Steps:
        """Leases run out, back-offs elapse, reconcile times pass."""
        if any(job.dying or (job.row and job.row.holder == words.DYING) for job in s.jobs):
            yield True, ("the leases of the dead run out", 0, 0), _bury(s)
        for j, job in enumerate(s.jobs):
            if job.waits:
                yield True, ("the back-off of {j} elapses", 0, j), self.fall_due(s, j)
            row = job.row
            if row and row.status is Status.PENDING and row.due and row.reconcile == words.LATER:
                yield True, ("the reconcile time of {j} passes", 0, j), s.put_row(j, reconcile=words.PASSED)

    def fall_due(self, s: State, j: int) -> State:
        """The back-off is over: the row is due, and so is its entry in the retry ZSET, if there is one."""
        s = s.put(j, waits=False, retry=words.LISTED if s.jobs[j].retry else words.NOT_LISTED)
        return s.put_row(j, due=True)


class FaultSteps:
    """What goes wrong, and what heals it."""

    def faults(self, s: State) -> Steps:
        """Every fault that may still happen; each spends one of those allowed."""
        left = s.faults
        for w, worker in enumerate(s.workers):
            yield from self.process(s, w, worker)
        asking = (words.ASKED, words.ASKED_AGAIN, words.COMMITTED)
        if left.crash and any(job.client in asking or job.queued for job in s.jobs):
            yield False, ("the API is killed", 0, 0), self.kill_api(s, asking).spend("crash")
        if left.flush:
            yield False, ("Redis loses everything", 0, 0), self.flush(s).spend("flush")
        if left.outage:
            yield False, ("PostgreSQL is away for longer than a lease", 0, 0), self.outage(s).spend("outage")
        if left.clock:
            yield False, ("PostgreSQL's clock steps past every lease", 0, 0), self.step_clock(s).spend("clock")
        for j, job in enumerate(s.jobs):
            row = job.row
            if left.cancel and job.client == words.TOLD and row and not row.status.is_final:
                yield False, ("the client cancels {j}", 0, j), move(s, j, Transition.CANCEL).spend("cancel")
            if left.late and job.strays and row and row.status is Status.PENDING and row.due:
                late = move(s, j, Transition.CLAIM, holder=words.GONE).spend("late")
                yield False, ("a claim of {j} commits after its worker was declared dead", 0, j), late

    def process(self, s: State, w: int, worker: Worker) -> Steps:
        """What may happen to one worker: it is killed, stopped, woken, told to end, or ends once it is drained."""
        left = s.faults
        if left.crash:
            killed = self.kill(s, w, worker).spend("crash")
            yield False, ("{w} is killed, and another starts in its place", w, 0), killed
        if worker.mode == words.ALIVE and left.pause and not worker.is_idle:
            # A shorter stop, or one of an idle worker, is slowness, which every order of the other steps contains.
            paused = s.put_worker(w, mode=words.PAUSED, lease=words.LAPSED).spend("pause")
            yield False, ("{w} is stopped past its lease", w, 0), paused
        if worker.mode == words.PAUSED:
            yield False, ("{w} wakes", w, 0), s.put_worker(w, mode=words.ALIVE)
        if worker.mode == words.ALIVE and left.stop:
            yield False, ("{w} gets SIGTERM", w, 0), s.put_worker(w, mode=words.DRAINING).spend("stop")
        if worker.mode == words.DRAINING and worker.is_idle:
            held = [j for j, job in enumerate(s.jobs) if job.row and job.row.holder == w]
            yield from self.give_back(s, w, held[0]) if held else self.leave(s, w)

    def give_back(self, s: State, w: int, j: int) -> Steps:
        """What a worker that leaves holds without knowing it."""
        released = move(s, j, Transition.RELEASE)
        text = "{w} gives back {j}, which it held unknowingly"
        yield from step(s, (text, w, j), released.publish(j), released, UNHEARD)

    def leave(self, s: State, w: int) -> Steps:
        """The worker ends; deliveries it never heard of stay pending under its name."""
        gone = s
        for j, hand in enumerate(s.workers[w].hands):
            gone = gone.put(j, strays=gone.jobs[j].strays + hand.ghosts)
        yield True, ("{w} leaves, and another starts in its place", w, 0), _replaced(gone, w)

    def kill_api(self, s: State, asking: tuple[str, ...]) -> State:
        """What it had not published is forgotten; a client without an answer does not know what became of its job."""
        for j, job in enumerate(s.jobs):
            s = s.put(j, queued=False, client=words.UNSURE if job.client in asking else job.client)
        return s

    def kill(self, s: State, w: int, worker: Worker) -> State:
        """A worker ends at once: its rows and entries wait for its lease to run out."""
        held = worker.lease == words.HELD
        for j, job in enumerate(s.jobs):
            found = _pending(worker, j)
            s = s.put(j, dying=job.dying + found) if held else s.put(j, strays=job.strays + found)
            if job.row and job.row.holder == w:
                s = s.put_row(j, holder=words.DYING if held else words.DEAD)
        return _replaced(s, w)

    def flush(self, s: State) -> State:
        """Redis is empty: stream, group, pending entries, retry ZSET and DLQ are gone."""
        s = s._replace(stream=(), group=False)
        for j in range(len(s.jobs)):
            s = s.put(j, retry=words.NOT_LISTED, dlq=False, dying=0, strays=0)
            for w in range(len(s.workers)):
                s = _without_entries(s, w, j)
        return s

    def outage(self, s: State) -> State:
        """No look outlives it: the settle meets the store's deadline, which is shorter than a lease."""
        for w, worker in enumerate(s.workers):
            if worker.lease == words.HELD:
                s = s.put_worker(w, lease=words.MISSED)
        for j in range(len(s.jobs)):
            s = s.put(j, seen=False)
        return _bury(s)

    def step_clock(self, s: State) -> State:
        """Every lease has run out at once, and nobody has missed a renewal."""
        for w, worker in enumerate(s.workers):
            if worker.lease == words.HELD:
                s = s.put_worker(w, lease=words.STEPPED)
        return _bury(s)


def _well(s: State) -> list[str]:
    """The leases of those who could renew."""
    return [worker.lease for worker in s.workers if worker.mode in (words.ALIVE, words.DRAINING)]


def _lives(s: State, row: Row) -> bool:
    """Whether the holder's lease holds."""
    return row.holder == words.DYING or (row.holder >= 0 and s.workers[row.holder].lease == words.HELD)


def _bury(s: State) -> State:
    for j, job in enumerate(s.jobs):
        s = s.put(j, dying=0, strays=job.strays + job.dying)
        if job.row and job.row.holder == words.DYING:
            s = s.put_row(j, holder=words.DEAD)
    return s


def _replaced(s: State, w: int) -> State:
    """A new worker where one was: one that does nothing is as good as none."""
    return s.put_worker(w, hands=(Hand(),) * len(s.jobs), mode=words.ALIVE, lease=words.HELD, tell=())


def _pending(worker: Worker, j: int) -> int:
    hand = worker.hands[j]
    return hand.ghosts + hand.entry + sum(tell.entry for tell in worker.tell if tell.job == j)


def _without_entries(s: State, w: int, j: int) -> State:
    tell = tuple(tell._replace(entry=tell.entry and tell.job != j) for tell in s.workers[w].tell)
    return s.put_hand(w, j, entry=False, ghosts=0).put_worker(w, tell=tell)
