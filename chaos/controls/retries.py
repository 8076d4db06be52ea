"""Broken builds of retries, attempts and dead letters."""

from __future__ import annotations

import dataclasses
from typing import Any

from chaos.controls.control import EVERYWHERE, control
from chaos.controls.patch import nothing, replace, rewrite
from scheduler.jobs import job
from scheduler.jobs.job import Outcome
from scheduler.jobs.lifecycle import RULES, Transition
from scheduler.jobs.retry import RetryPolicy
from scheduler.storage.rows import Letter
from scheduler.storage.stream import Stream
from scheduler.worker import suspects
from scheduler.worker.settler import Settler


@control("retry-early", "halves every back-off", breaks=("retry-schedule",), scenario="calm")
def retry_early() -> None:
    delay = RetryPolicy.delay
    replace(RetryPolicy, "delay", lambda self, attempt, chance=0.0: delay(self, attempt, chance) / 2)


@control(
    "retry-due-lost",
    "keeps the due time of a retry in Redis alone",
    breaks=("retry-schedule",),
    scenario="redis-flushed",
)
def retry_due_lost() -> None:
    RULES[Transition.RETRY] = dataclasses.replace(RULES[Transition.RETRY], moves_due=False)
    rewrite("settle", ("ELSE now() + (o.delay + 1) * interval '1 second' END", "ELSE now() END"))


@control(
    "attempts-uncounted",
    "gives the attempt back with every retry",
    breaks=("retry-bound", "terminal", "exactly-once"),
    scenario="calm",
)
def attempts_uncounted() -> None:
    RULES[Transition.RETRY] = dataclasses.replace(RULES[Transition.RETRY], attempt=-1)


@control(
    "crashes-uncounted",
    "counts an attempt only when it fails cleanly, not when its worker dies",
    breaks=("retry-bound",),
    scenario="worker-poisoned",
    drain_seconds=45.0,
)
def crashes_uncounted() -> None:
    RULES[Transition.RESCUE] = dataclasses.replace(RULES[Transition.RESCUE], attempt=-1)
    replace(job, "after_death", lambda *_: Transition.RESCUE)


@control("dlq-missing", "writes no dead letter to Redis", breaks=("dlq-exact",), scenario="calm", on=EVERYWHERE)
def dlq_missing() -> None:
    replace(Stream, "dead_letter", nothing)


@control("dlq-first", "writes the DLQ entry before the FAILED row", breaks=("dlq-exact",), scenario="postgres-cut")
def dlq_first() -> None:
    settle = Settler._settle

    async def bury_and_settle(self: Settler, outcomes: list[Outcome]) -> Any:
        failed = [each for each in outcomes if each.transition is Transition.FAIL]
        await self._stream.dead_letter([Letter(each.job.id, each.job.type, each.error or "") for each in failed])
        return await settle(self, outcomes)

    replace(Settler, "_settle", bury_and_settle)


@control(
    "suspects-together",
    "runs what workers died with side by side again",
    breaks=("bystanders",),
    scenario="worker-poisoned",
    drain_seconds=60.0,
)
def suspects_together() -> None:
    replace(suspects, "SUSPECT_AFTER_CRASHES", 1_000_000)
