"""Handlers as a user would write them, loaded by SCHEDULER_JOBS=user_jobs."""

from __future__ import annotations

import time
from typing import Any

from scheduler import JobContext, Snooze, job

_seen: dict[str, int] = {}


@job("GREET")
def greet(ctx: JobContext, payload: dict[str, Any]) -> dict[str, str]:
    return {"greeting": f"hello {payload['name']}"}


@job("SPIN")
async def spin(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Burn CPU in the event loop."""
    end = time.monotonic() + float(payload["seconds"])
    while time.monotonic() < end:
        sum(range(1_000))


@job("BLOCK")
def block(ctx: JobContext, payload: dict[str, Any]) -> None:
    time.sleep(float(payload["seconds"]))


@job("SNOOZER")
async def snoozer(ctx: JobContext, payload: dict[str, Any]) -> None:
    _seen[ctx.job_id] = _seen.get(ctx.job_id, 0) + 1
    if _seen[ctx.job_id] < 3:
        raise Snooze(0.2)
