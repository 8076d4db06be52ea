"""How a part of the running process is broken.

A part that is not there any more must not pass for a broken one: both functions fail when they find nothing to break.
"""

from __future__ import annotations

from typing import Any

from chaos.errors import UsageError
from scheduler.storage.store import QUERIES


def replace(owner: Any, name: str, broken: Any) -> None:
    """Put the broken part in place. Raises UsageError when there is none to replace."""
    if not hasattr(owner, name):
        raise UsageError(f"{owner.__name__} has no {name}; bring the control up to date")
    setattr(owner, name, broken)


def rewrite(query: str, *changes: tuple[str, str]) -> None:
    """Put other words in a statement. Raises UsageError when it does not hold the old ones."""
    for old, new in changes:
        if old not in QUERIES[query]:
            raise UsageError(f"the query {query!r} holds no {old!r}; bring the control up to date")
        QUERIES[query] = QUERIES[query].replace(old, new)


async def nothing(*_: Any) -> None:
    """In the place of a call that should have done something."""


async def idle(*_: Any) -> float:
    """In the place of a service's tick."""
    return 1.0
