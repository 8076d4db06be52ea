"""Two workers, a rescuer and a user, in any order, on the real store: a model foretells what each statement does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.jobs.lifecycle import FINAL, RULES, Status, Transition, after_death, apply
from scheduler.storage.postgres import Postgres
from scheduler.storage.rows import Settled
from scheduler.storage.store import Store
from tests.storage.factory import expire, live_worker, new_job, rescue

pytestmark = pytest.mark.properties

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
MOST_ATTEMPTS = 2
RECORD = """SELECT id, status, attempt, fence, d.job_id IS NOT NULL
            FROM scheduler.jobs LEFT JOIN scheduler.dead_letters d ON d.job_id = id"""
workers = st.integers(0, 1)
kinds = st.sampled_from([Transition.COMPLETE, Transition.RETRY, Transition.FAIL, Transition.SNOOZE, Transition.RELEASE])


@dataclass
class Expected:
    """What the model says a job's row holds."""

    status: Status = Status.PENDING
    attempt: int = 0
    fence: int = 0
    holder: int | None = None

    def move(self, transition: Transition) -> None:
        self.status, self.attempt = apply(self.status, self.attempt, transition)

    def held_by(self, claim: ClaimedJob) -> bool:
        return self.status is Status.PROCESSING and self.fence == claim.fence


def outcome(job: ClaimedJob, kind: Transition) -> Outcome:
    """As the executor would make it: a failure with no attempt left is final."""
    if kind is Transition.RETRY and job.attempt >= job.max_attempts:
        kind = Transition.FAIL
    error = "why" if kind in (Transition.RETRY, Transition.FAIL) else None
    return Outcome(job, kind, None if RULES[kind].target in FINAL else 0.0, None, error)


class Fencing(RuleBasedStateMachine):
    """`claims` holds every claim there ever was; a paused worker settles its own whenever it wakes."""

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        super().__init__()
        self.runner, self.store = runner, store
        self.model: dict[bytes, Expected] = {}
        self.claims: list[ClaimedJob] = []
        self.lives: list[bytes] = []
        self.dead: set[int] = set()

    def do(self, call: Any) -> Any:
        return self.runner.run(call)

    @initialize()
    def begin(self) -> None:
        self.do(self.store.postgres.fetch("WITH j AS (DELETE FROM scheduler.jobs) DELETE FROM scheduler.workers"))
        self.lives = [self.do(live_worker(self.store)) for _ in range(2)]
        jobs = [new_job(max_attempts=MOST_ATTEMPTS) for _ in range(2)]
        self.do(self.store.insert(jobs))
        self.model = {job.id: Expected() for job in jobs}

    @rule(n=workers)
    def claim_everything(self, n: int) -> None:
        """What is pending, and what this worker holds: a claim whose reply was lost is repeated."""
        won = {job.id: job for job in self.do(self.store.claim(self.lives[n], list(self.model)))}
        for job_id, job in self.model.items():
            held = job.status is Status.PROCESSING and job.holder == n
            if not (held or (job.status is Status.PENDING and n not in self.dead)):
                assert job_id not in won
                continue
            if not held:
                job.move(Transition.CLAIM)
            job.fence, job.holder = job.fence + 1, n
            assert (won[job_id].attempt, won[job_id].fence) == (job.attempt, job.fence)
        self.claims += won.values()

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), kind=kinds, again=st.booleans())
    def settle(self, data: st.DataObject, kind: Transition, again: bool) -> None:
        """Any claim there ever was, the latest or a stale one; sometimes twice, as after a lost reply."""
        claim = data.draw(st.sampled_from(self.claims))
        job, made = self.model[claim.id], outcome(claim, kind)
        if job.held_by(claim):
            job.move(made.transition)
        settled = job.fence == claim.fence and job.status is RULES[made.transition].target
        for _ in range(1 + again):
            assert self.do(self.store.settle([made])).lost == ([] if settled else [made])

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        job, made = self.model[claim.id], Outcome.complete(claim, None)
        if job.held_by(claim):
            job.move(Transition.COMPLETE)
        settled = job.fence == claim.fence and job.status is Status.COMPLETED
        assert self.do(self.store.complete([made])) == Settled([made] if settled else [], [] if settled else [made])

    @rule(n=workers, noticed=st.booleans())
    def the_lease_runs_out(self, n: int, noticed: bool) -> None:
        """A worker pauses; `noticed`: it is rescued from before it goes on."""
        self.do(expire(self.store, self.lives[n]))
        self.dead.add(n)
        if noticed:
            self.rescue()
            self.beat(n)

    @rule(n=workers)
    def a_heartbeat_comes(self, n: int) -> None:
        self.beat(n)

    @rule()
    def a_rescuer_looks(self) -> None:
        self.rescue()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.model)))
        job = self.model[job_id]
        assert self.do(self.store.cancel(job_id)) is (job.status not in FINAL)
        if job.status not in FINAL:
            job.move(Transition.CANCEL)

    @rule()
    def redrive_everything(self) -> None:
        buried = {job_id for job_id, job in self.model.items() if job.status is Status.FAILED}
        assert set(self.do(self.store.redrive(list(self.model), 0.0))) == buried
        for job_id in buried:
            self.model[job_id].move(Transition.REDRIVE)

    def beat(self, n: int) -> None:
        beat = self.store.heartbeat(self.lives[n], name="w", lease_seconds=60, types=[], counters="{}")
        assert self.do(beat).unbroken is (n not in self.dead)
        self.dead.discard(n)

    def rescue(self) -> None:
        given_back = {o.job.id: RULES[o.transition].target.value for o in self.do(rescue(self.store)).done}
        expected: dict[bytes, str] = {}
        for job_id, job in self.model.items():
            if job.status is Status.PROCESSING and job.holder in self.dead:
                job.move(after_death(job.attempt, MOST_ATTEMPTS))
                expected[job_id] = job.status.value
        assert given_back == expected

    @invariant()
    def the_record_is_what_the_model_says(self) -> None:
        rows = self.do(self.store.postgres.fetch(RECORD))
        assert {row[0]: row[1:] for row in rows} == {
            job_id: (job.status.value, job.attempt, job.fence, job.status is Status.FAILED)
            for job_id, job in self.model.items()
        }


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as own:
        yield own


def test_no_interleaving_settles_a_job_twice_or_loses_it(database_url: str, runner: asyncio.Runner) -> None:
    store = Store(Postgres(database_url, size=1, deadline_seconds=5, name="tests"))
    run_state_machine_as_test(
        lambda: Fencing(runner, store),  # type: ignore[arg-type]
        settings=settings(max_examples=1_000 if LONG else 40, stateful_step_count=60 if LONG else 40),
    )
    runner.run(store.close())
