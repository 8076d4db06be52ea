"""Slots: which of the jobs in hand are run, and in what."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from typing import Any

import pytest

from scheduler import runtime
from scheduler.errors import StoreUnavailable
from scheduler.jobs.job import ClaimedJob
from scheduler.jobs.lifecycle import Transition
from scheduler.jobs.registry import Handler, Registry
from scheduler.jobs.retry import RetryPolicy
from scheduler.worker.executor import Executor
from scheduler.worker.hands import Hands
from scheduler.worker.slots import Slots


class Rig:
    """Slots of which the handler is a test's own."""

    def __init__(self, concurrency: int, handler: Any) -> None:
        self.hands, self.ran = Hands(concurrency), list[bytes]()
        executor = Executor(RetryPolicy(), concurrency=concurrency, rng=random.Random(0))

        async def body(ctx: Any, payload: Any) -> None:
            self.ran.append(ctx.job_id)
            await handler(ctx)

        registry = Registry()
        registry.add(Handler("T", body))
        self.slots = Slots(executor, registry, self.hands, self._fetch)
        self.fetched = b"{}"

    async def _fetch(self, job_id: bytes) -> bytes:
        if not self.fetched:
            raise StoreUnavailable("PostgreSQL", "gone")
        return self.fetched

    def claim(self, count: int, payload: bytes | None = b"{}") -> list[ClaimedJob]:
        jobs = [ClaimedJob(os.urandom(16), 1, "T", 1, 4, None, payload) for _ in range(count)]
        self.hands.entries.update({job.id: b"1-1" for job in jobs})
        self.slots.put(jobs)
        return jobs

    async def ended(self, count: int) -> list[Transition]:
        async with asyncio.timeout(10):
            while len(self.hands.unsettled) < count:
                await self.hands.change(0.1)
        return [outcome.transition for outcome in self.hands.unsettled]


async def test_a_job_that_is_cancelled_while_it_waits_in_hand_is_not_run() -> None:
    going = asyncio.Event()
    rig = Rig(1, lambda _: going.wait())
    jobs = rig.claim(4)
    await asyncio.sleep(0)
    rig.hands.cancelled.update(job.id for job in jobs[1:3])
    going.set()
    assert await rig.ended(4) == [Transition.COMPLETE, Transition.RELEASE, Transition.RELEASE, Transition.COMPLETE]
    assert len(rig.ran) == 2


@pytest.mark.parametrize("waits", [False, True])
async def test_a_job_that_has_waited_or_cancelled_its_task_shares_it_with_no_other(waits: bool) -> None:
    tasks: list[Any] = []

    async def body(ctx: Any) -> None:
        tasks.append(asyncio.current_task())
        if waits:
            await asyncio.sleep(0)
        else:
            tasks[-1].cancel()

    rig = Rig(2, body)
    rig.claim(6)
    assert await rig.ended(6) == [Transition.COMPLETE] * 6
    assert len({id(task) for task in tasks}) == 6


async def test_a_large_payload_that_cannot_be_fetched_has_its_job_given_back() -> None:
    rig = Rig(2, lambda _: asyncio.sleep(0))
    rig.fetched = b""
    rig.claim(1, payload=None)
    assert await rig.ended(1) == [Transition.RELEASE]
    rig.fetched = b"{}"
    rig.claim(1, payload=None)
    assert await rig.ended(2) == [Transition.RELEASE, Transition.COMPLETE]
    assert len(rig.ran) == 1


def test_a_worker_collects_garbage_as_often_as_python_does() -> None:
    before = gc.get_threshold()
    runtime.freeze()
    gc.unfreeze()
    assert gc.get_threshold() == before
