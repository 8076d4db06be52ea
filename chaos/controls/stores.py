"""Broken builds of what stands between the scheduler and its stores: connections, sessions, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chaos.controls.control import EVERYWHERE, control
from chaos.controls.patch import replace, rewrite
from chaos.errors import UsageError
from scheduler.jobs.job import NewJob
from scheduler.storage import postgres
from scheduler.storage import stream as streaming
from scheduler.submission.intake import PATIENCE_SECONDS, Intake, Receipt, Request


@control(
    "stays-demoted",
    "stays connected to a Redis that takes no writes any more",
    breaks=("terminal",),
    scenario="redis-failover",
    on=EVERYWHERE,
)
def stays_demoted() -> None:
    replace(streaming, "_LEFT", set())


@control(
    "settings-unpinned",
    "leaves each session as the database is configured",
    breaks=("terminal",),
    scenario="postgres-settings",
    on=EVERYWHERE,
)
def settings_unpinned() -> None:
    kept, found, _ = postgres._OPTIONS.partition(" -c default_transaction_isolation")
    if not found:
        raise UsageError("the options of a session pin nothing any more; bring the control up to date")
    replace(postgres, "_OPTIONS", kept)
    replace(postgres, "_PIN", "SELECT 1, true")


@control(
    "one-lane",
    "has all submissions wait behind one whose key an open transaction holds",
    breaks=("submits-go-on",),
    scenario="key-held",
    on="api",
)
def one_lane() -> None:
    async def through_one(self: Intake, jobs: Sequence[NewJob]) -> list[Receipt]:
        loop = asyncio.get_running_loop()
        size = sum(len(job.payload) for job in jobs)
        request = Request(jobs, loop.create_future(), loop.time() + PATIENCE_SECONDS, size)
        self.lanes[0].put(request)
        return await request.done

    replace(Intake, "_accept", through_one)
    rewrite("insert", ("set_config('lock_timeout', '50ms', true)", "set_config('lock_timeout', '0', true)"))
