"""Bodies that a careless or unlucky user writes: what they raise is no Exception, or they cancel what is not theirs."""

from __future__ import annotations

import asyncio
from typing import Any


class Exotic(BaseException):
    """As gevent.Timeout and the cancellations of other libraries: no Exception."""


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
