"""Garbage in Redis: what another program could write under the queue's keys, some kinds at a time."""

from __future__ import annotations

from typing import Any

from chaos.faults.fault import World
from chaos.faults.stores import StoreFault
from chaos.record.aim import REDIS
from chaos.record.plan import Planned


def garbage(planned: Planned) -> StoreFault:
    """So many `kinds` (1) of the target's, from the `nth` (0) on, round and round; only the queue can heal that."""
    first, kinds = int(planned.arguments.get("nth", 0)), int(planned.arguments.get("kinds", 1))

    def spoil(world: World) -> dict[str, Any]:
        return {"kinds": [world.spoil_redis(nth) for nth in range(first, first + kinds)]}

    return StoreFault(planned.fault, REDIS, spoil, lambda _: {})
