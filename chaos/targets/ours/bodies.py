"""The built-in job bodies, each also writing what it does to the effect ledger.

Loaded by SCHEDULER_JOBS=chaos.targets.ours.bodies, without the one that CHAOS_WITHOUT names. The ledger is the file
named by CHAOS_LEDGER, shared by all workers, one write(2) a line. It does not pass through the scheduler, so it is an
independent witness. A body that is cancelled writes nothing: it neither ended nor failed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from chaos.record.history import Effect, Event
from chaos.record.recorder import Appender
from chaos.targets.ours import hostile
from scheduler import Snooze, job, samples

Body = Callable[[Any, Any], Awaitable[Any]]


async def block(ctx: Any, payload: dict[str, Any]) -> dict[str, float]:
    """Keep the worker's event loop to itself for `seconds`, as careless handlers do."""
    time.sleep(float(payload["seconds"]))  # noqa: ASYNC251  (blocking is the point)
    return {"blocked_seconds": float(payload["seconds"])}


async def overstay(ctx: Any, payload: dict[str, Any]) -> dict[str, int]:
    """In the first `failures` attempts go on past the time-out, whoever cancels."""
    if ctx.attempt <= payload["failures"]:
        await asyncio.sleep(0.5 * hostile.TIMEOUT_SECONDS)
        witness(ctx, "OVERTIME", "error")  # this attempt can only fail by now; what comes later does not count
        await hostile.outlast()
    return {"attempts": ctx.attempt}


def overstay_plainly(ctx: Any, payload: dict[str, Any]) -> dict[str, int]:
    """The same in a thread, which nobody can cancel."""
    if ctx.attempt <= payload["failures"]:
        time.sleep(0.5 * hostile.TIMEOUT_SECONDS)
        witness(ctx, "OVERTIME-PLAIN", "error")
        time.sleep(hostile.PLAIN_SECONDS)
        raise hostile.Overtime
    return {"attempts": ctx.attempt}


BODIES: dict[str, Body] = {
    "NOOP": samples.noop,
    "SLEEP": samples.sleep,
    "FLAKY": samples.flaky,
    "FAIL": samples.fail,
    "CRASH": samples.crash,
    "EMAIL": samples.email,
    "WEBHOOK": samples.webhook,
    "BLOCK": block,
    "RARE": samples.sleep,
    "RAISE": hostile.raise_it,
    "END-LOOP": hostile.end_loop,
    "OVERTIME": overstay,
}
PLAIN_BODIES: dict[str, Callable[[Any, Any], Any]] = {
    "RAISE-PLAIN": hostile.raise_it_plainly,
    "OVERTIME-PLAIN": overstay_plainly,
}
TIMEOUTS = dict.fromkeys(("OVERTIME", "OVERTIME-PLAIN"), hostile.TIMEOUT_SECONDS)


@cache
def ledger() -> Appender:
    """Opened by the first body that runs, not by an API that only wants the names."""
    return Appender(Path(os.environ["CHAOS_LEDGER"]))


def witness(ctx: Any, name: str, event: Event) -> None:
    """Write one line: this attempt of this job, in this process, now."""
    ledger().append(Effect(ctx.job_id, ctx.attempt, event, time.monotonic_ns(), os.getpid(), name))


@contextmanager
def witnessing(ctx: Any, name: str) -> Iterator[None]:
    """The body between its ledger lines."""
    witness(ctx, name, "start")
    try:
        yield
    except (Snooze, asyncio.CancelledError):
        raise
    except BaseException:
        witness(ctx, name, "error")
        raise
    witness(ctx, name, "end")


def signed(ctx: Any, value: Any) -> Any:
    """A result that also names the attempt that made it, for the fencing check.

    NOOP keeps its empty result, so that the scheduler's short way of settling is under test too.
    """
    return None if value is None else {"attempt": ctx.attempt, "pid": os.getpid(), "value": value}


def witnessed(name: str, body: Body) -> Body:
    """The body, writing the ledger."""

    async def run(ctx: Any, payload: Any) -> Any:
        with witnessing(ctx, name):
            value = await body(ctx, payload)
        return signed(ctx, value)

    return run


def witnessed_plain(name: str, body: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The same for a body that runs in a thread."""

    def run(ctx: Any, payload: Any) -> Any:
        with witnessing(ctx, name):
            value = body(ctx, payload)
        return signed(ctx, value)

    return run


for _name, _body in BODIES.items():
    if _name != os.environ.get("CHAOS_WITHOUT"):
        job(_name, timeout=TIMEOUTS.get(_name))(witnessed(_name, _body))
for _name, _plain in PLAIN_BODIES.items():
    job(_name, timeout=TIMEOUTS.get(_name))(witnessed_plain(_name, _plain))
