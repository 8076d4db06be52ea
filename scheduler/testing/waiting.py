"""Waiting for a condition of other processes, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def eventually(
    look: Callable[[], Any],
    *,
    within: float = 15.0,
    every: float = 0.05,
    of: str = "condition",
    until: Callable[[Any], object] = bool,
) -> Any:
    """The first truthy value (or the first that satisfies `until`) that `look` returns, awaited if it is awaitable.

    Raises AssertionError after `within` seconds, saying what was last seen; what `look` raises goes through.
    """
    seen: Any = None
    scope = asyncio.timeout(within)
    try:
        async with scope:
            while True:
                found = look()
                seen = await found if inspect.isawaitable(found) else found
                if until(seen):
                    return seen
                await asyncio.sleep(every)
    except TimeoutError:
        if not scope.expired():
            raise
    raise AssertionError(f"{of} not seen within {within:g} s; last seen: {seen!r}")
