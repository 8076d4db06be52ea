"""Walks through the model, replayed on the real store: each step that touches the record is done to it, then compared.

What only Redis, a client or a handler notices does nothing here. Time and death are made: a lease is set to have run
out, a back-off to have elapsed. A step of the model that is in neither table is an error.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from chaos.model import words
from chaos.model.protocol import Protocol
from chaos.model.state import Faults, Row, State, start
from chaos.model.steps import Label, Step
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.jobs.lifecycle import Status, Transition
from scheduler.storage.store import Store
from tests.storage.factory import alter, expire, live_worker, new_job, value

FAULTS = (  # one of these a walk: what goes wrong together
    Faults(crash=2, lost=1),
    Faults(stop=2, lost=3),
    Faults(pause=2, lost=1, snooze=1),
    Faults(outage=1, lost=2, snooze=1),
    Faults(crash=3, late=2, cancel=1),
    Faults(crash=1, pause=1, outage=1, stop=1, snooze=1),
)
FAULT_SHARE, PUT_OFF = 0.2, 0.05
FAR = 1_000.0
LOST = "; the reply is lost"
# Steps that leave the record as it is.
ELSEWHERE = re.compile(
    r"a client submits|the client submits|the API (publishes|answers|is killed)|the (body of|group|promoter)"
    r"|\{w\} (reads|is handed|sweeps|adopts|starts|puts|gives up|acknowledges|tells Redis|wakes|gets SIGTERM)"
    r"|the reconciler repairs"
)
MAKE: dict[Transition, Callable[[ClaimedJob], Outcome]] = {
    Transition.COMPLETE: lambda job: Outcome.complete(job, None),
    Transition.RETRY: lambda job: Outcome.retry(job, "why", FAR),
    Transition.FAIL: lambda job: Outcome.fail(job, "why"),
    Transition.SNOOZE: lambda job: Outcome.snooze(job, FAR),
    Transition.RELEASE: Outcome.release,
}


def walk(seed: int, steps: int, max_attempts: int, taken: Counter[str]) -> Iterator[tuple[State, Label, State]]:
    """One way through the model: (state, step, next state). What was `taken` less often is chosen more often."""
    chance, protocol = random.Random(seed), Protocol(max_attempts)
    state = start(1, 2, FAULTS[seed % len(FAULTS)])
    for _ in range(steps):
        if not (possible := [each for each in protocol.steps(state) if not _is_idle(state, each)]):
            return
        weights = [_weight(each) / (1 + taken[each[1][0]]) for each in possible]
        [(_, label, following)] = chance.choices(possible, weights)
        taken[label[0]] += 1
        yield state, label, following
        state = following


def _weight(step: Step) -> float:
    """Faults are rarer than the protocol's own steps; between a rescuer's look and its settle much is to happen."""
    fair, (text, *_), _ = step
    return PUT_OFF if text.startswith("a rescuer gives back") else 1.0 if fair else FAULT_SHARE


def _is_idle(state: State, step: Step) -> bool:
    """Whether a fault would hit a worker that has nothing to lose."""
    fair, (text, w, _), _ = step
    row, worker = state.jobs[0].row, state.workers[w]
    is_hit = not fair and text.startswith("{w}") and worker.mode == words.ALIVE
    return is_hit and worker.is_idle and (row is None or row.holder != w)


class Replay:
    """The store as the model sees it: one job, two workers that may be replaced, and the dead."""

    def __init__(self, store: Store, max_attempts: int) -> None:
        self.store, self.job = store, new_job(max_attempts=max_attempts)
        self.workers: list[bytes] = []
        self.dying: set[bytes] = set()  # dead, their lease still running
        self.dead: set[bytes] = set()
        self.claims: dict[int, ClaimedJob] = {}  # by the worker's number: what it knows that it holds
        self.seen: list[Outcome] = []
        self.done: Counter[str] = Counter()

    async def begin(self) -> None:
        """A record with two workers and nothing else."""
        await self.store.postgres.fetch("WITH j AS (DELETE FROM scheduler.jobs) DELETE FROM scheduler.workers")
        self.workers = [await live_worker(self.store) for _ in range(2)]

    async def take(self, before: State, label: Label, after: State) -> None:
        """Do one step, and see that the record is as the model says."""
        text, w, _ = label
        if not ELSEWHERE.match(text):
            deed = next(name for name in DEEDS if text.startswith(name))
            await DEEDS[deed](self, before, text, w)
            self.done[deed] += 1
        await self._compare(text, after.jobs[0].row)

    async def _compare(self, text: str, row: Row | None) -> None:
        count = "SELECT count(*) FROM scheduler.jobs"
        assert (await self.store.postgres.fetch(count))[0][0] == (row is not None), text
        if row is None:
            return
        columns = "status, attempt, worker_id, run_at <= now(), reconcile_at = '-infinity'"
        letter = "EXISTS (SELECT FROM scheduler.dead_letters d WHERE d.job_id = jobs.id)"
        status, attempt, holder, due, at_once, letters = await value(self.store, f"{columns}, {letter}", self.job.id)
        assert (status, attempt, letters) == (row.status, row.attempt, row.letter), text
        if row.status is Status.PENDING:
            assert (due, at_once) == (row.due, row.reconcile == words.AT_ONCE), text
        elif row.status is Status.PROCESSING:
            assert holder in self._holders(row.holder), text

    def _holders(self, holder: int) -> set[bytes]:
        if holder >= 0:
            return {self.workers[holder]}
        return self.dying if holder == words.DYING else self.dead

    # -- the steps

    async def insert(self, before: State, text: str, w: int) -> None:
        """A repeat changes nothing."""
        assert await self.store.insert([self.job]) == (before.jobs[0].row is None)

    async def claim(self, before: State, text: str, w: int) -> None:
        """Got, got without knowing it, or not got."""
        jobs = await self.store.claim(self.workers[w], [self.job.id])
        assert bool(jobs) is ("does not get it" not in text), text
        if jobs and LOST not in text:
            self.claims[w] = jobs[0]

    async def settle(self, before: State, text: str, w: int) -> None:
        """Plain completions by both ways in turn. A reply that is lost is one that nobody hears."""
        hand = before.workers[w].hands[0]
        outcome = MAKE[Transition(hand.outcome)](self.claims[w])
        plain = outcome.transition is Transition.COMPLETE and self.done.total() % 2
        settled = await (self.store.complete if plain else self.store.settle)([outcome])
        if "is refused" not in text:
            assert settled.done == [outcome], text
        elif before.row(0).status not in (outcome.transition, Status.COMPLETED, Status.FAILED, Status.PENDING):
            assert settled.lost == [outcome], text
        if LOST not in text:
            del self.claims[w]

    async def renew(self, before: State, text: str, w: int) -> None:
        await self.store.heartbeat(self.workers[w], name="w", lease_seconds=60, types=[], counters="{}")

    async def pause(self, before: State, text: str, w: int) -> None:
        await expire(self.store, self.workers[w])

    async def kill(self, before: State, text: str, w: int) -> None:
        """Its lease, if it holds, runs on; another worker takes its place."""
        (self.dying if before.workers[w].lease == words.HELD else self.dead).add(self.workers[w])
        await self._replace(w)

    async def _replace(self, w: int) -> None:
        self.claims.pop(w, None)
        self.workers[w] = await live_worker(self.store)

    async def leases_run_out(self, before: State, text: str, w: int) -> None:
        for worker in self.dying:
            await expire(self.store, worker)
        self.dead |= self.dying
        self.dying = set()

    async def outage(self, before: State, text: str, w: int) -> None:
        """Whoever looked before has met its deadline."""
        await self.leases_run_out(before, text, w)
        self.seen = []
        for worker in self.workers:
            await expire(self.store, worker)

    async def look(self, before: State, text: str, w: int) -> None:
        self.seen = [Outcome.crash(job) for job in await self.store.orphans(9)]
        assert [outcome.job.id for outcome in self.seen] == [self.job.id], text

    async def rescue(self, before: State, text: str, w: int) -> None:
        """As the rescuer goes on, perhaps late. Then it forgets who holds nothing."""
        rescued = await self.store.rescue(self.seen)
        assert bool(rescued.done) is ("gives back" in text), text
        await self.store.forget_dead()

    async def give_back(self, before: State, text: str, w: int) -> None:
        held = await self.store.held_by(self.workers[w])
        assert [job.id for job in held] == [self.job.id], text
        await self.store.settle([Outcome.release(job) for job in held])

    async def leave(self, before: State, text: str, w: int) -> None:
        assert await self.store.held_by(self.workers[w]) == [], text
        await self.store.deregister(self.workers[w])
        await self._replace(w)

    async def cancel(self, before: State, text: str, w: int) -> None:
        assert await self.store.cancel(self.job.id), text

    async def late_claim(self, before: State, text: str, w: int) -> None:
        """By a worker whose lease is gone before anybody looks."""
        worker = await live_worker(self.store)
        assert await self.store.claim(worker, [self.job.id]), text
        await self.store.deregister(worker)
        self.dead.add(worker)

    async def fall_due(self, before: State, text: str, w: int) -> None:
        if before.jobs[0].row and not before.row(0).due:
            await alter(self.store, "jobs SET run_at = now() WHERE id", self.job.id)

    async def reconcile_time(self, before: State, text: str, w: int) -> None:
        await alter(self.store, "jobs SET reconcile_at = now() - interval '1 hour' WHERE id", self.job.id)

    async def reconcile(self, before: State, text: str, w: int) -> None:
        assert [job.id for job in await self.store.overlooked(0.0, 9)] == [self.job.id], text


Deed = Callable[[Replay, State, str, int], Awaitable[Any]]
DEEDS: dict[str, Deed] = {
    "the API inserts": Replay.insert,
    "{w} claims": Replay.claim,
    "{w} settles": Replay.settle,
    "{w} renews its lease": Replay.renew,
    "{w} is stopped": Replay.pause,
    "{w} is killed": Replay.kill,
    "the leases of the dead run out": Replay.leases_run_out,
    "PostgreSQL is away": Replay.outage,
    "a rescuer sees": Replay.look,
    "a rescuer": Replay.rescue,
    "{w} gives back": Replay.give_back,
    "{w} leaves": Replay.leave,
    "the client cancels": Replay.cancel,
    "a claim of": Replay.late_claim,
    "the back-off of": Replay.fall_due,
    "the reconcile time of": Replay.reconcile_time,
    "the reconciler publishes": Replay.reconcile,
}
