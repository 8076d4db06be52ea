"""Plans for workers that act at once on the real store, and the judgement of what came of them.

A plan is plain data. Beside what every call returned, a trigger writes down each change of each job's row, in the
order of its row lock: the judge compares the two. `judge` is pure; each of its findings begins with the rule's name.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from scheduler.errors import StoreUnavailable
from scheduler.jobs.job import ClaimedJob, NewJob, Outcome
from scheduler.jobs.lifecycle import FINAL, RULES, Status, Transition
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store
from tests.storage.factory import expire, new_id, new_job, rescue

WATCH = """
CREATE TABLE public.changes (n bigserial PRIMARY KEY, job_id uuid, actor text, was text, now text, was_fence int,
    fence int, was_attempt int, attempt int, was_worker uuid, worker uuid, token text);
CREATE FUNCTION public.watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.changes
    VALUES (DEFAULT, new.id, current_setting('application_name'), old.status, new.status, old.fence, new.fence,
            old.attempt, new.attempt, old.worker_id, new.worker_id, coalesce(new.error, new.result::text));
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER UPDATE ON scheduler.jobs FOR EACH ROW EXECUTE FUNCTION public.watch()
"""
CHANGES = """SELECT job_id, actor, was, now, was_fence, fence, was_attempt, attempt, was_worker, worker, token
             FROM public.changes ORDER BY n"""
CLEAN = "WITH c AS (DELETE FROM public.changes), j AS (DELETE FROM scheduler.jobs) DELETE FROM scheduler.workers"
ATTEMPTS = "SELECT job_id, fence FROM scheduler.attempts"
JOBS = "SELECT id, status, attempt, max_attempts FROM scheduler.jobs"


@dataclass(frozen=True, slots=True)
class Step:
    """`twice`: at once on two connections, as when a reply is lost while the statement still runs.

    `stale`: settle the first claim this worker ever had of a job, not its latest. `other`: whose lease runs out.
    """

    kind: str
    jobs: tuple[int, ...] = (0,)
    outcome: Transition = Transition.COMPLETE
    twice: bool = False
    stale: bool = False
    other: int = 0


Plan = Sequence[Sequence[Step]]


class Change(NamedTuple):
    """One change of one job's row, as the trigger saw it."""

    job: bytes
    actor: str
    was: Status
    now: Status
    was_fence: int
    fence: int
    was_attempt: int
    attempt: int
    was_worker: bytes | None
    worker: bytes | None
    token: str | None

    def __str__(self) -> str:
        fence, attempt = f"{self.was_fence}→{self.fence}", f"{self.was_attempt}→{self.attempt}"
        return f"{_short(self.job)} {self.was}→{self.now} fence {fence} attempt {attempt} by {self.actor}: {self.token}"

    def is_result_of(self, transition: Transition) -> bool:
        rule = RULES[transition]
        attempt = 0 if rule.attempt is None else self.was_attempt + rule.attempt
        fence = self.was_fence + rule.fence
        return self.was in rule.sources and (self.now, self.attempt, self.fence) == (rule.target, attempt, fence)

    @property
    def is_repeated_claim(self) -> bool:
        """The same worker took up again what it held: its earlier reply may have been lost."""
        return self.is_result_of(Transition.RECLAIM) and self.worker == self.was_worker

    @property
    def is_theft(self) -> bool:
        """A claim that took the job from another holder."""
        return self.was is self.now is Status.PROCESSING and self.worker != self.was_worker

    @property
    def is_claim(self) -> bool:
        return self.is_result_of(Transition.CLAIM) or self.is_repeated_claim

    @property
    def is_end(self) -> bool:
        """Of an attempt: whatever took the job out of PROCESSING."""
        return self.was is Status.PROCESSING and not self.is_claim

    @property
    def is_rescue(self) -> bool:
        # A cancellation leaves the error of an earlier attempt where it was.
        return self.is_end and self.now is not Status.CANCELLED and "the worker died" in (self.token or "")


class Answer(NamedTuple):
    """What one call said about one outcome."""

    actor: str
    outcome: Outcome
    token: str | None
    lost: bool

    def __str__(self) -> str:
        job, told = self.outcome.job, "lost" if self.lost else "settled"
        return (
            f"{_short(job.id)} fence {job.fence} {self.outcome.transition} by {self.actor}, told {told}: {self.token}"
        )


@dataclass
class Record:
    """What everybody was told, what the trigger saw, and what the tables hold at the end."""

    claims: list[ClaimedJob] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    told: list[tuple[str, bytes, Status]] = field(default_factory=list)  # (actor, job, new status): cancel and redrive
    refused: list[str] = field(default_factory=list)
    expired: set[bytes] = field(default_factory=set)  # workers whose lease ran out at some time
    changes: list[Change] = field(default_factory=list)
    jobs: dict[bytes, tuple[Status, int, int]] = field(default_factory=dict)
    letters: set[bytes] = field(default_factory=set)
    attempts: list[tuple[bytes, int]] = field(default_factory=list)


class Actor:
    """One worker with connections of its own, doing its steps one after the other."""

    def __init__(self, name: str, store: Store, ids: Sequence[bytes], record: Record) -> None:
        self.name, self.store, self._ids, self._record = name, store, ids, record
        self.worker = new_id()
        self._claims: dict[bytes, list[ClaimedJob]] = defaultdict(list)
        self._settled = 0
        self.others: list[Actor] = []

    async def beat(self) -> None:
        await self.store.heartbeat(self.worker, name=self.name, lease_seconds=60, types=[], counters="{}")

    async def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            await self._do(step)

    async def _do(self, step: Step) -> None:
        calls: dict[str, Callable[[Step], Awaitable[object]]] = {
            "claim": self._claim,
            "settle": self._settle,
            "complete": self._complete,
            "cancel": self._cancel,
            "redrive": self._redrive,
            "rescue": lambda _: rescue(self.store),
            "heartbeat": lambda _: self.beat(),
            "expire": self._expire,
        }
        again = await asyncio.gather(*(calls[step.kind](step) for _ in range(1 + step.twice)), return_exceptions=True)
        for error in again:
            if isinstance(error, StoreUnavailable):
                self._record.refused.append(f"{self.name} {step.kind}: {error}")
            elif isinstance(error, BaseException):
                raise error

    async def _claim(self, step: Step) -> None:
        for job in await self.store.claim(self.worker, [self._ids[n] for n in step.jobs]):
            self._record.claims.append(job)
            self._claims[job.id].append(job)
            self._claims[job.id].sort(key=lambda claim: claim.fence)

    async def _settle(self, step: Step) -> None:
        if outcomes := [self._outcome(job, step.outcome) for job in self._held(step)]:
            self._answered(outcomes, (await self.store.settle(outcomes)).lost)

    async def _complete(self, step: Step) -> None:
        if outcomes := [Outcome.complete(job, None) for job in self._held(step)]:
            self._answered(outcomes, (await self.store.complete(outcomes)).lost)

    def _held(self, step: Step) -> list[ClaimedJob]:
        claims = [found for n in step.jobs if (found := self._claims[self._ids[n]])]
        return [found[0 if step.stale else -1] for found in claims]

    def _answered(self, outcomes: list[Outcome], lost: list[Outcome]) -> None:
        for outcome in outcomes:
            self._record.answers.append(Answer(self.name, outcome, outcome.error or outcome.result, outcome in lost))

    def _outcome(self, job: ClaimedJob, kind: Transition) -> Outcome:
        """As the executor would make it, with a mark of its own where there is room for one."""
        self._settled += 1
        mark = f'"{self.name} {self._settled}"'
        if kind is Transition.RETRY and job.attempt >= job.max_attempts:
            kind = Transition.FAIL
        delay = 0.0 if RULES[kind].target is Status.PENDING else None
        result = mark if kind is Transition.COMPLETE else None
        return Outcome(job, kind, delay, result, mark if kind in (Transition.RETRY, Transition.FAIL) else None)

    async def _expire(self, step: Step) -> None:
        worker = self.others[step.other % len(self.others)].worker
        self._record.expired.add(worker)
        await expire(self.store, worker)

    async def _cancel(self, step: Step) -> None:
        job_id = self._ids[step.jobs[0]]
        if await self.store.cancel(job_id):
            self._record.told.append((self.name, job_id, Status.CANCELLED))

    async def _redrive(self, step: Step) -> None:
        for job_id in await self.store.redrive(self._ids, 0.0):
            self._record.told.append((self.name, job_id, Status.PENDING))


async def watched(database_url: str) -> None:
    """Let the trigger see every change in this database, and let a deadlock end at once."""
    postgres = Postgres(database_url, size=1, deadline_seconds=10, name="tests")
    async with postgres.use() as connection:
        await connection.execute(WATCH.encode(), prepare=False)
        name = connection.info.dbname
        await connection.execute(f"ALTER DATABASE {name} SET deadlock_timeout = '20ms'".encode())
    await postgres.close()


async def carry_out(plan: Plan, stores: Sequence[Store], jobs: int, max_attempts: int) -> Record:
    """Everybody at once, each on a store of its own; `stores[0]` prepares and looks."""
    record, looker = Record(), stores[0]
    await looker.postgres.fetch(CLEAN)
    new: list[NewJob] = [new_job(max_attempts=max_attempts) for _ in range(jobs)]
    await looker.insert(new)
    ids = [job.id for job in new]
    actors = [Actor(f"actor {n}", store, ids, record) for n, store in enumerate(stores[1:])]
    for actor in actors:
        actor.others = actors
    await asyncio.gather(*(actor.beat() for actor in actors))
    await asyncio.gather(*(actor.run(steps) for actor, steps in zip(actors, plan, strict=False)))
    await _look(looker, record)
    return record


async def _look(store: Store, record: Record) -> None:
    for row in await store.postgres.fetch(CHANGES):
        record.changes.append(Change(row[0], row[1], Status(row[2]), Status(row[3]), *row[4:]))
    for job_id, status, *numbers in await store.postgres.fetch(JOBS):
        record.jobs[job_id] = (Status(status), numbers[0], numbers[1])
    record.letters = {letter.id for letter in await store.dead_letters(99)}
    record.attempts = [(row[0], row[1]) for row in await store.postgres.fetch(ATTEMPTS)]


def _short(job_id: bytes) -> str:
    return job_id.hex()[-4:]


def judge(record: Record) -> list[str]:
    """What went wrong; nothing is the only good answer."""
    claims = (_legal, _handed_out_once, _ended_once, _answers_are_true, _told_is_true, _only_the_dead)
    rules = (*claims, _attempts, _letters, _recorded)
    return [finding for rule in rules for finding in rule(record)]


def _legal(record: Record) -> list[str]:
    """Each change is an arrow of the lifecycle's table; a final status is left by a redrive only."""
    found = []
    for change in record.changes:
        if change.was in FINAL and not change.is_result_of(Transition.REDRIVE):
            found.append(f"final: overwritten by {change}")
        elif not any(change.is_result_of(one) for one in Transition) or change.is_theft:
            found.append(f"legal: no arrow for {change}")
    return found


def _handed_out_once(record: Record) -> list[str]:
    """The claims that were returned are those that were made, each under a fence of its own."""
    returned = Counter((job.id, job.fence, job.attempt) for job in record.claims)
    made = Counter((c.job, c.fence, c.attempt) for c in record.changes if c.is_claim)
    fences = Counter((job.id, job.fence) for job in record.claims)
    found = [f"claimed: {key} handed out {times} times" for key, times in fences.items() if times > 1]
    return found + ([f"claimed: returned {returned - made}, made {made - returned}"] if returned != made else [])


def _ended_once(record: Record) -> list[str]:
    ends = Counter((change.job, change.fence) for change in record.changes if change.is_end)
    overtaken = {(c.job, c.was_fence) for c in record.changes if c.is_repeated_claim}
    twice = [f"ended: {key} ended {times} times" for key, times in ends.items() if times > 1]
    return twice + [f"ended: {key} was overtaken, and ended" for key in ends if key in overtaken]


def _answers_are_true(record: Record) -> list[str]:
    """A settle that reported success is in the record; one that was told it lost has left no mark there.

    Whose change it was that made the job PENDING again, the store does not tell: see the test that fails for it.
    """
    reached = {(change.job, change.fence, change.now) for change in record.changes if not change.is_claim}
    marks = {change.token for change in record.changes if change.is_end and change.token}
    found = []
    for answer in record.answers:
        job, target = answer.outcome.job, RULES[answer.outcome.transition].target
        if not answer.lost and (job.id, job.fence, target) not in reached:
            found.append(f"answered: success, and no such end: {answer}")
        if answer.lost and answer.token in marks:
            found.append(f"answered: lost, and yet it took effect: {answer}")
    return found


def _told_is_true(record: Record) -> list[str]:
    """Whoever cancelled or redrove a job is the one that did."""
    done = Counter(
        (change.actor, change.job, change.now)
        for change in record.changes
        if change.now is Status.CANCELLED or (change.was, change.now) == (Status.FAILED, Status.PENDING)
    )
    told = Counter(record.told)
    return [] if told == done else [f"told: {told - done} did not happen, {done - told} was not told"]


def _only_the_dead(record: Record) -> list[str]:
    """Nothing was taken from a worker whose lease never ran out."""
    return [f"alive: {c}" for c in record.changes if c.is_rescue and c.was_worker not in record.expired]


def _attempts(record: Record) -> list[str]:
    return [f"attempts: {job}" for job in record.jobs.values() if not 0 <= job[1] <= job[2]]


def _letters(record: Record) -> list[str]:
    """FAILED if and only if there is a dead letter."""
    failed = {job_id for job_id, (status, *_) in record.jobs.items() if status is Status.FAILED}
    return [] if failed == record.letters else [f"letters: FAILED {failed}, letters {record.letters}"]


def _recorded(record: Record) -> list[str]:
    """One attempt row for each attempt that ended in an error, under its fence."""
    ends = [change for change in record.changes if change.is_end and change.token]
    failed = Counter((c.job, c.fence) for c in ends if c.now in (Status.PENDING, Status.FAILED))
    rows = Counter(record.attempts)
    return [] if rows == failed else [f"recorded: {failed - rows} have no row, {rows - failed} are one too many"]
