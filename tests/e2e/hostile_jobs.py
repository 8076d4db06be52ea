"""Handlers that no worker should be harmed by, loaded by SCHEDULER_JOBS=e2e.hostile_jobs."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from typing import Any

from scheduler import Discard, JobContext, Snooze, job

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


class Exotic(BaseException):
    """What gevent.Timeout and a few libraries raise: no Exception."""


class BareSnooze(Snooze):
    """Forgets to call the __init__ above it."""

    def __init__(self) -> None:
        pass


class Unspeakable(Exception):
    """Has no words for itself."""

    def __str__(self) -> str:
        raise Exotic


ERRORS: dict[str, type[BaseException]] = {
    "exotic": Exotic,
    "keyboard": KeyboardInterrupt,
    "exit": SystemExit,
    "generator": GeneratorExit,
    "stop": StopIteration,
    "cancelled": asyncio.CancelledError,
    "snooze": BareSnooze,
    "unspeakable": Unspeakable,
    "discard": Discard,
}


@job("RAISE")
async def raise_it(ctx: JobContext, payload: dict[str, Any]) -> None:
    if payload.get("wait"):
        await asyncio.sleep(0.01)
    raise ERRORS[payload["what"]]


@job("RAISE-PLAIN")
def raise_it_plainly(ctx: JobContext, payload: dict[str, Any]) -> None:
    raise ERRORS[payload["what"]]


@job("CANCEL-SELF")
async def cancel_self(ctx: JobContext, payload: dict[str, Any]) -> None:
    task = asyncio.current_task()
    assert task
    task.cancel()
    if payload.get("wait"):
        await asyncio.sleep(1)


@job("TENANT")
async def set_tenant(ctx: JobContext, payload: dict[str, Any]) -> str:
    """Says what it found, and leaves something behind."""
    found = tenant.get()
    tenant.set("acme")
    return found


@job("SIZE")
async def size(ctx: JobContext, payload: dict[str, Any]) -> int:
    return len(payload["text"])


@job("DEAF")
async def deaf(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Goes on whatever it is told."""
    until = time.monotonic() + float(payload["seconds"])
    while (left := until - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


@job("BLOCK-LOOP")
async def block_loop(ctx: JobContext, payload: dict[str, Any]) -> None:
    time.sleep(float(payload["seconds"]))  # noqa: ASYNC251


@job("BLOCK-THREAD")
def block_thread(ctx: JobContext, payload: dict[str, Any]) -> None:
    time.sleep(float(payload["seconds"]))


@job("END-LOOP")
async def end_loop(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Cancels one of the worker's own loops, as careless clean-up code does with all tasks."""
    for task in asyncio.all_tasks():
        if task.get_name() == payload["loop"]:
            task.cancel()


def _wrapped(function: Any) -> Any:
    def plain(ctx: JobContext, payload: dict[str, Any]) -> Any:
        return function(ctx, payload)

    return plain


@job("AWAITABLE")
@_wrapped
async def awaitable(ctx: JobContext, payload: dict[str, Any]) -> str:
    """Looks like a plain function, and is none."""
    await asyncio.sleep(0)
    return "awaited"
