"""Handlers as a user would write them, loaded by SCHEDULER_JOBS=user_jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from scheduler import JobContext, Snooze, job, resource

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


@resource
async def shelf() -> AsyncIterator[list[str]]:
    """Opened and closed once a worker; the test finds both in the log."""
    logging.getLogger("shop").info("shelf opened", extra={"books": 3})
    yield ["opened"]
    logging.getLogger("shop").info("shelf closed")


@job("LOOK", max_attempts=2, backoff=0.3, timeout=30)
async def look(ctx: JobContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Says what a handler can know, in the log too."""
    logging.getLogger("shop").info("first line\nsecond line", extra={"shelf": 7})
    logging.getLogger("httpx").info("nobody wants to know")
    ctx.log.info("looked", extra={"found": ctx.resources["shelf"]})
    if ctx.attempt < payload.get("attempts", 1):
        _deep(25)
    assert ctx.deadline
    left = round(ctx.deadline.timestamp() - time.time())
    return {"max_attempts": ctx.max_attempts, "is_last": ctx.is_last, "left": left, "found": ctx.resources["shelf"]}


def _deep(levels: int) -> None:
    if levels:
        _deep(levels - 1)
    raise ValueError("too deep\n2026-01-01T00:00:00.000Z INFO    api forged")


@job("LOOK-PLAIN")
def look_plain(ctx: JobContext, payload: dict[str, Any]) -> Any:
    """The same from a thread, without any default of its own."""
    logging.getLogger("shop").warning("from a thread")
    return [ctx.max_attempts, ctx.is_last, ctx.deadline is None]


@job("UNTIL-CANCELLED")
async def until_cancelled(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Waits until what it does is no longer wanted, says so, and ends; sleeps on when it is cut short."""
    seconds = 0.0
    while not ctx.cancelled and seconds < 20:
        seconds += 0.05
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
    ctx.log.warning("no longer wanted" if ctx.cancelled else "never told")
