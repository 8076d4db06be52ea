"""The steps of what keeps the two stores in agreement (rescuer, reconciler, promoter), of time, and of what goes wrong.

Rescuer, reconciler and promoter run in every worker; the model lets them act at any time.
"""

from __future__ import annotations

from chaos.model.state import Client, Hand, Holder, Lease, Mode, Reconcile, Retry, Row, State, Worker, move
from chaos.model.steps import Steps
from scheduler.jobs.lifecycle import Status, Transition, after_death


class KeeperSteps:
    max_attempts: int

    def keepers(self, s: State) -> Steps:
        yield from self.rescue(s)
        yield from self.adopt(s)
        if not s.group:
            yield True, ("the group is created again", 0, 0), self.create_group(s)
        for j, job in enumerate(s.jobs):
            if job.row and s.group:
                yield from self.reconcile(s, j, job.row)
            if job.retry == Retry.LISTED:
                yield True, ("the promoter moves {j} to the stream", 0, j), s.put(j, retry=Retry.NOT_LISTED).publish(j)
            if job.dlq != (job.row is not None and job.row.letter):
                yield from self.reconcile_dlq(s, j)

    def create_group(self, s: State) -> State:
        return s._replace(group=True)

    # -- rescue

    def rescue(self, s: State) -> Steps:
        if not self.may_rescue(s):
            return
        lost = [j for j, job in enumerate(s.jobs) if job.row and self.is_orphan(s, job.row)]
        if not lost:
            return
        rescued = s
        for j in lost:
            rescued = self.rescued(rescued, j)
        yield True, ("a rescuer gives back {j}", 0, lost[0]), self.tell_rescued(rescued, lost)
        if s.faults.lost:
            yield False, ("a rescuer gives back {j}; Redis does not hear of it", 0, lost[0]), rescued.spend("lost")

    def tell_rescued(self, s: State, jobs: list[int]) -> State:
        for j in jobs:
            s = s.put(j, dlq=True) if s.row(j).status is Status.FAILED else s.publish(j)
        return s

    def may_rescue(self, s: State) -> bool:
        """A rescuer waits until it has held its own lease for one lease: by then every worker that can renew has."""
        well = [worker.lease for worker in s.workers if worker.mode in (Mode.ALIVE, Mode.DRAINING)]
        return Lease.HELD in well and Lease.MISSED not in well

    def is_orphan(self, s: State, row: Row) -> bool:
        if row.status is not Status.PROCESSING:
            return False
        return row.holder in (Holder.DEAD, Holder.GONE, Holder.LEFT) or (row.holder >= 0 and s.workers[row.holder].lease != Lease.HELD)

    def rescued(self, s: State, j: int) -> State:
        row = s.row(j)
        if row.holder >= 0 and s.workers[row.holder].lease == Lease.MISSED:
            s = s.breaks("repetition")  # its worker was well, and no fault explains that it runs twice
        if row.holder == Holder.LEFT:
            s = s.breaks("release")  # its worker stopped in order: that may cost no attempt
        transition = after_death(row.attempt, self.max_attempts)
        return move(s, j, transition, burned=1, reconcile=Reconcile.AT_ONCE)

    def adopt(self, s: State) -> Steps:
        """Pending entries of a consumer without a lease become a live worker's, which meets them in its sweep.

        It sweeps before it adopts more: without that bound a worker that never sweeps could gather any number.
        """
        for w, worker in enumerate(s.workers):
            if worker.mode != Mode.ALIVE or worker.lease != Lease.HELD:
                continue
            for j, job in enumerate(s.jobs):
                if worker.hands[j].ghosts:
                    continue
                if job.strays:
                    heir = s.put(j, strays=0).put_hand(w, j, ghosts=job.strays)
                    yield True, ("{w} adopts the pending entries of {j}", w, j), heir
                for other, sleeper in enumerate(s.workers):
                    if sleeper.lease != Lease.HELD and (found := _pending(sleeper, j)):
                        heir = _without_entries(s, other, j).put_hand(w, j, ghosts=found)
                        yield True, ("{w} adopts the pending entries of {j}", w, j), heir

    # -- reconcile

    def reconcile(self, s: State, j: int, row: Row) -> Steps:
        if row.status is not Status.PENDING or not self.is_overlooked(s, j, row):
            return
        found = s.put_row(j, reconcile=Reconcile.LATER)
        told = found.publish(j) if row.due else found.put(j, retry=Retry.NOT_YET)
        yield True, ("the reconciler publishes {j}", 0, j), told
        if s.faults.lost:
            yield False, ("the reconciler publishes {j}; Redis does not hear of it", 0, j), found.spend("lost")

    def is_overlooked(self, s: State, j: int, row: Row) -> bool:
        """Everything published before `reconcile_at` has been delivered, and yet the row is PENDING."""
        return row.reconcile == Reconcile.AT_ONCE or (row.reconcile == Reconcile.PASSED and (not s.stream or bool(s.stream[0][1] >> j & 1)))

    def reconcile_dlq(self, s: State, j: int) -> Steps:
        row = s.jobs[j].row
        yield True, ("the reconciler repairs the DLQ for {j}", 0, j), s.put(j, dlq=row is not None and row.letter)

    # -- time

    def time(self, s: State) -> Steps:
        if any(job.dying or (job.row and job.row.holder == Holder.DYING) for job in s.jobs):
            yield True, ("the leases of the dead run out", 0, 0), _bury(s)
        for j, job in enumerate(s.jobs):
            if job.waits:
                yield True, ("the back-off of {j} elapses", 0, j), self.fall_due(s, j)
            row = job.row
            if row and row.status is Status.PENDING and row.due and row.reconcile == Reconcile.LATER:
                yield True, ("the reconcile time of {j} passes", 0, j), s.put_row(j, reconcile=Reconcile.PASSED)

    def fall_due(self, s: State, j: int) -> State:
        s = s.put(j, waits=False, retry=Retry.LISTED if s.jobs[j].retry else Retry.NOT_LISTED)
        return s.put_row(j, due=True)


class FaultSteps:
    """What goes wrong, and what heals it."""

    def faults(self, s: State) -> Steps:
        left = s.faults
        for w, worker in enumerate(s.workers):
            yield from self.process(s, w, worker)
        if left.crash and any(job.client in (Client.ASKED, Client.ASKED_AGAIN, Client.COMMITTED) or job.queued for job in s.jobs):
            yield False, ("the API is killed", 0, 0), self.kill_api(s).spend("crash")
        if left.flush:
            yield False, ("Redis loses everything", 0, 0), self.flush(s).spend("flush")
        if left.outage:
            yield False, ("PostgreSQL is away for longer than a lease", 0, 0), self.outage(s).spend("outage")
        for j, job in enumerate(s.jobs):
            row = job.row
            if left.cancel and job.client == Client.TOLD and row and not row.status.is_final:
                yield False, ("the client cancels {j}", 0, j), move(s, j, Transition.CANCEL).spend("cancel")
            if left.late and job.strays and row and row.status is Status.PENDING and row.due:
                late = move(s, j, Transition.CLAIM, holder=Holder.GONE).spend("late")
                yield False, ("a claim of {j} commits after its worker was declared dead", 0, j), late

    def process(self, s: State, w: int, worker: Worker) -> Steps:
        left = s.faults
        if left.crash:
            yield (
                False,
                ("{w} is killed, and another starts in its place", w, 0),
                self.kill(s, w, worker).spend("crash"),
            )
        if worker.mode == Mode.ALIVE and left.pause and not worker.is_idle:
            # A shorter stop, or one of an idle worker, is slowness, which every order of the other steps contains.
            paused = s.put_worker(w, mode=Mode.PAUSED, lease=Lease.LAPSED).spend("pause")
            yield False, ("{w} is stopped past its lease", w, 0), paused
        if worker.mode == Mode.PAUSED:
            yield False, ("{w} wakes", w, 0), s.put_worker(w, mode=Mode.ALIVE)
        if worker.mode == Mode.ALIVE and left.stop:
            yield False, ("{w} gets SIGTERM", w, 0), s.put_worker(w, mode=Mode.DRAINING).spend("stop")
        if worker.mode == Mode.DRAINING and worker.is_idle:
            yield True, ("{w} leaves, and another starts in its place", w, 0), self.leave(s, w, worker)

    def kill_api(self, s: State) -> State:
        for j, job in enumerate(s.jobs):
            asking = job.client in (Client.ASKED, Client.ASKED_AGAIN, Client.COMMITTED)
            s = s.put(j, queued=False, client=Client.UNSURE if asking else job.client)
        return s

    def kill(self, s: State, w: int, worker: Worker) -> State:
        held = worker.lease == Lease.HELD
        for j, job in enumerate(s.jobs):
            found = _pending(worker, j)
            s = s.put(j, dying=job.dying + found) if held else s.put(j, strays=job.strays + found)
            if job.row and job.row.holder == w:
                s = s.put_row(j, holder=Holder.DYING if held else Holder.DEAD)
        return _replaced(s, w)

    def leave(self, s: State, w: int, worker: Worker) -> State:
        for j, hand in enumerate(worker.hands):
            s = s.put(j, strays=s.jobs[j].strays + hand.ghosts)
            if s.jobs[j].row and s.row(j).holder == w:
                s = self.give_back(s, j)
        return _replaced(s, w)

    def give_back(self, s: State, j: int) -> State:
        """What a worker that leaves holds without knowing it."""
        return move(s, j, Transition.RELEASE, reconcile=Reconcile.AT_ONCE)

    def flush(self, s: State) -> State:
        s = s._replace(stream=(), group=False)
        for j in range(len(s.jobs)):
            s = s.put(j, retry=Retry.NOT_LISTED, dlq=False, dying=0, strays=0)
            for w in range(len(s.workers)):
                s = _without_entries(s, w, j)
        return s

    def outage(self, s: State) -> State:
        for w, worker in enumerate(s.workers):
            if worker.lease == Lease.HELD:
                s = s.put_worker(w, lease=Lease.MISSED)
        return _bury(s)


def _bury(s: State) -> State:
    for j, job in enumerate(s.jobs):
        s = s.put(j, dying=0, strays=job.strays + job.dying)
        if job.row and job.row.holder == Holder.DYING:
            s = s.put_row(j, holder=Holder.DEAD)
    return s


def _replaced(s: State, w: int) -> State:
    """A new worker where one was: one that does nothing is as good as none."""
    return s.put_worker(w, hands=(Hand(),) * len(s.jobs), mode=Mode.ALIVE, lease=Lease.HELD, tell=())


def _pending(worker: Worker, j: int) -> int:
    hand = worker.hands[j]
    return hand.ghosts + hand.entry + sum(tell.entry for tell in worker.tell if tell.job == j)


def _without_entries(s: State, w: int, j: int) -> State:
    tell = tuple(tell._replace(entry=tell.entry and tell.job != j) for tell in s.workers[w].tell)
    return s.put_hand(w, j, entry=False, ghosts=0).put_worker(w, tell=tell)
