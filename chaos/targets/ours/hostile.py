"""Bodies that a careless or unlucky user writes: what they raise is no Exception, or they cancel what is not theirs."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any, NoReturn


class Exotic(BaseException):
    """As gevent.Timeout and the cancellations of other libraries: no Exception."""


class Overtime(Exception):
    """How a body ends that has gone on for long enough; nobody hears of it."""


# At any pace: the time-out of bodies that do not keep it, and how long these go on: an async one, for which its worker
# waits 5 s, and one in a thread, of which so many must gather that their worker is replaced.
TIMEOUT_SECONDS, ASYNC_SECONDS, PLAIN_SECONDS = 0.5, 8.0, 45.0
ERRORS: dict[str, type[BaseException]] = {
    "exotic": Exotic,
    "keyboard": KeyboardInterrupt,
    "exit": SystemExit,
    "stop": StopIteration,
}


async def raise_it(ctx: Any, payload: dict[str, Any]) -> dict[str, int]:
    """Raise what `error` names in the first `failures` attempts, then succeed."""
    return raise_it_plainly(ctx, payload)


def raise_it_plainly(ctx: Any, payload: dict[str, Any]) -> dict[str, int]:
    """The same in a thread."""
    if ctx.attempt <= payload["failures"]:
        raise ERRORS[payload["error"]]
    return {"attempts": ctx.attempt}


async def end_loop(ctx: Any, payload: dict[str, Any]) -> None:
    """In the first attempt, cancel the worker's own loop of that name, as clean-up code does that cancels all tasks."""
    for task in asyncio.all_tasks() if ctx.attempt == 1 else ():
        if task.get_name() == payload["loop"]:
            task.cancel()


async def outlast() -> NoReturn:
    """Go on, however often this is cancelled. Raises Overtime at last."""
    until = time.monotonic() + ASYNC_SECONDS
    while (left := until - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left)
    raise Overtime
