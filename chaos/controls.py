"""Negative controls: builds of the scheduler broken on purpose, from outside, each of which a check must catch.

Loaded by SCHEDULER_JOBS=chaos.controls in the processes that are to be broken, and in those only; CHAOS_CONTROL names
the control. A check whose control passes has proved nothing. The only module here that reaches into the scheduler.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from chaos.errors import UsageError
from scheduler.jobs.job import IdSequence, Outcome
from scheduler.jobs.lifecycle import RULES, Transition
from scheduler.jobs.retry import RetryPolicy
from scheduler.services.heartbeat import Heartbeat
from scheduler.services.reconciler import Reconciler
from scheduler.services.rescuer import Rescuer
from scheduler.services.service import Service
from scheduler.storage.store import QUERIES, Store
from scheduler.storage.stream import Stream

EVERYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Control:
    """What is broken, in which processes, the scenario that shows it, and the checks that must turn invalid."""

    name: str
    does: str
    breaks: tuple[str, ...]
    scenario: str
    apply: Callable[[], None]
    on: str = "worker"  # a role, a process name, or everywhere
    drain_seconds: float = 30.0


def settle_before_body() -> None:
    claim = Store.claim

    async def claim_and_complete(self: Store, worker: bytes, job_ids: Any) -> Any:
        jobs = await claim(self, worker, job_ids)
        await self.complete([Outcome.complete(job, None) for job in jobs])
        return jobs

    _replace(Store, "claim", claim_and_complete)


def no_fence() -> None:
    for query, fence in (
        ("complete", " AND fence = %(fence)s AND status = 'PROCESSING'"),
        ("settle", " AND j.fence = o.fence AND j.status = 'PROCESSING'"),
    ):
        broken = QUERIES[query].replace(fence, "")
        if broken == QUERIES[query]:
            raise UsageError(f"the control no-fence finds no fence in the query {query!r}; bring it up to date")
        QUERIES[query] = broken


def retry_early() -> None:
    delay = RetryPolicy.delay
    _replace(RetryPolicy, "delay", lambda self, attempt, chance=0.0: delay(self, attempt, chance) / 2)


def attempts_uncounted() -> None:
    RULES[Transition.RETRY] = dataclasses.replace(RULES[Transition.RETRY], attempt=-1)


def dlq_missing() -> None:
    _replace(Stream, "dead_letter", _nothing)


def heartbeat_off() -> None:
    """Renews, but only every other lease."""
    renew, last = Heartbeat._renew, {"at": 0.0}

    async def sometimes(self: Heartbeat, store: Store) -> None:
        if time.monotonic() - last["at"] > 2 * self._lease:
            last["at"] = time.monotonic()
            await renew(self, store)

    _replace(Heartbeat, "_renew", sometimes)


def rescuer_off() -> None:
    _replace(Rescuer, "tick", _idle)


def reconciler_off() -> None:
    _replace(Reconciler, "tick", _idle)


def no_trim() -> None:
    async def nothing(self: Stream, cursor: bytes, spare: int) -> tuple[int, bytes]:
        return 0, cursor

    _replace(Stream, "trim", nothing)


def phantom_jobs() -> None:
    insert, ids = Store.insert, IdSequence()

    async def insert_one_more(self: Store, jobs: Any) -> int:
        (stranger,) = ids.take(1, time.time_ns(), os.urandom(8))
        twin = dataclasses.replace(jobs[0], id=stranger, idempotency_key=None, fingerprint=None)
        await insert(self, [twin])
        return await insert(self, jobs)

    _replace(Store, "insert", insert_one_more)


def keys_ignored() -> None:
    from scheduler.api import hot

    new_job = vars(hot)["new_job"]

    def forgetful(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(new_job(*arguments, **options), idempotency_key=None, fingerprint=None)

    _replace(hot, "new_job", forgetful)


def suspects_together() -> None:
    from scheduler.services import worker

    _replace(worker, "SUSPECT_AFTER_CRASHES", 1_000_000)


def gives_up() -> None:
    _replace(Service, "_back_off", lambda _: os._exit(1))


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control(
            "settle-before-body",
            "writes the final status before the body runs",
            ("at-least-once", "status-effect"),
            "worker-killed",
            settle_before_body,
        ),
        Control("no-fence", "settles without presenting the fence", ("fencing",), "worker-paused", no_fence),
        Control("retry-early", "halves every back-off", ("retry-schedule",), "calm", retry_early),
        Control(
            "attempts-uncounted",
            "gives the attempt back with every retry",
            ("retry-bound", "terminal"),
            "calm",
            attempts_uncounted,
        ),
        Control("dlq-missing", "writes no dead letter to Redis", ("dlq-exact",), "calm", dlq_missing, EVERYWHERE),
        Control(
            "heartbeat-off",
            "one live worker renews its lease every other lease only",
            ("repetition",),
            "worker-killed",
            heartbeat_off,
            "worker-1",
        ),
        Control(
            "rescuer-off",
            "nobody gives back what dead workers hold",
            ("recovery-time", "terminal"),
            "worker-killed",
            rescuer_off,
        ),
        Control(
            "reconciler-off",
            "nobody publishes what Redis has forgotten",
            ("terminal",),
            "redis-flushed",
            reconciler_off,
            EVERYWHERE,
        ),
        Control(
            "gives-up",
            "one worker ends at the first error of a store",
            ("survival",),
            "redis-partition",
            gives_up,
            "worker-1",
        ),
        Control(
            "suspects-together",
            "runs what workers died with side by side again",
            ("bystanders",),
            "worker-poisoned",
            suspects_together,
        ),
        Control("no-trim", "leaves acknowledged entries in the stream", ("redis-empty",), "calm", no_trim, EVERYWHERE),
        Control("phantom-jobs", "invents a job with each batch", ("no-phantom",), "calm", phantom_jobs, "api"),
        Control("keys-ignored", "forgets idempotency keys", ("idempotent-submit",), "calm", keys_ignored, "api"),
    )
}


def find(name: str) -> Control:
    """The control of that name. Raises UsageError with the nearest known name."""
    if name not in CONTROLS:
        near = get_close_matches(name, CONTROLS, n=1, cutoff=0.4)
        raise UsageError(f"no control is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return CONTROLS[name]


def _replace(owner: Any, name: str, broken: Any) -> None:
    """Put the broken part in place; a part that is not there any more must not pass for a broken one."""
    if not hasattr(owner, name):
        raise UsageError(f"{owner.__name__} has no {name}; bring the control up to date")
    setattr(owner, name, broken)


async def _nothing(*_: Any) -> None:
    return None


async def _idle(*_: Any) -> float:
    return 1.0


if _name := os.environ.get("CHAOS_CONTROL"):
    find(_name).apply()
