"""One job's life under any sequence of events, by the functions that decide it and a clock that only the test moves."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.jobs.job import ClaimedJob
from scheduler.jobs.lifecycle import FINAL, RULES, Status, Transition, after_death, apply
from scheduler.jobs.retry import RetryPolicy
from scheduler.worker.executor import Executor

pytestmark = pytest.mark.properties

running = precondition(lambda self: self.status is Status.PROCESSING)


class Life(RuleBasedStateMachine):
    """`spent` counts the tries that really failed or crashed, apart from the product's own `attempt`."""

    @initialize(
        most=st.integers(1, 5),
        base=st.floats(0.1, 10),
        factor=st.floats(1, 4),
        jitter=st.floats(0, 2),
        seed=st.integers(),
    )
    def submit(self, most: int, base: float, factor: float, jitter: float, seed: int) -> None:
        self.most, self.policy = most, RetryPolicy(base, factor, jitter)
        self.executor = Executor(self.policy, threads=1, rng=random.Random(seed))
        self.status, self.attempt, self.spent = Status.PENDING, 0, 0
        self.now = self.due = self.earliest = 0.0
        self.finals: list[Status] = []

    def _move(self, transition: Transition) -> None:
        self.status, self.attempt = apply(self.status, self.attempt, transition)
        if self.status in FINAL:
            self.finals.append(self.status)

    @rule(seconds=st.floats(0, 1_000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.status is Status.PENDING and self.now >= self.due)
    @rule()
    def claim(self) -> None:
        assert self.now >= self.earliest, "a retry is early"
        self._move(Transition.CLAIM)
        assert self.attempt == self.spent + 1

    @running
    @rule()
    def the_handler_returns(self) -> None:
        self._move(Transition.COMPLETE)

    @running
    @rule()
    def the_handler_raises(self) -> None:
        job = ClaimedJob(bytes(16), 1, "X", self.attempt, self.most, None, b"{}", 0.0)
        outcome = self.executor.failed(job, "because")
        self.spent += 1
        self._move(outcome.transition)
        if self.status is Status.PENDING:
            assert outcome.delay_seconds is not None
            self.due = self.now + outcome.delay_seconds
            self.earliest = self.now + self.policy.base_seconds * self.policy.factor ** (self.spent - 1)
        assert (self.status is Status.FAILED) == (self.spent == self.most)

    @running
    @rule(seconds=st.floats(0, 100))
    def the_handler_snoozes(self, seconds: float) -> None:
        self._move(Transition.SNOOZE)
        self.due = self.earliest = self.now + seconds

    @running
    @rule()
    def the_worker_drains(self) -> None:
        self._move(Transition.RELEASE)

    @running
    @rule()
    def the_worker_dies(self) -> None:
        self.spent += 1
        self._move(after_death(self.attempt, self.most))
        assert (self.status is Status.FAILED) == (self.spent == self.most)

    @precondition(lambda self: self.status in (Status.PENDING, Status.PROCESSING))
    @rule()
    def cancel(self) -> None:
        self._move(Transition.CANCEL)

    @precondition(lambda self: self.status is Status.FAILED)
    @rule()
    def redrive(self) -> None:
        self.finals.pop()
        self._move(Transition.REDRIVE)
        self.spent, self.due, self.earliest = 0, self.now, self.now

    @rule(transition=st.sampled_from(Transition))
    def whatever_else_arrives_late_is_refused(self, transition: Transition) -> None:
        if self.status not in RULES[transition].sources:
            with pytest.raises(ValueError, match="cannot start from"):
                apply(self.status, self.attempt, transition)

    @invariant()
    def no_more_attempts_than_allowed_and_one_final_status(self) -> None:
        assert 0 <= self.attempt <= self.most
        assert self.attempt == self.spent + (self.status in (Status.PROCESSING, Status.COMPLETED)) or self.finals
        assert self.finals == ([self.status] if self.status in FINAL else [])

    def teardown(self) -> None:
        if hasattr(self, "executor"):
            self.executor.close()


Life.TestCase.settings = settings(
    max_examples=2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 60, stateful_step_count=40
)
TestLife = Life.TestCase
