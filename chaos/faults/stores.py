"""What befalls a store itself, and not the way to it: Redis forgets or takes no writes, PostgreSQL's clock steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.faults.fault import World
from chaos.record.aim import POSTGRES, REDIS, Aim
from chaos.record.plan import Planned

Act = Callable[[World], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StoreFault:
    """Done and undone by a command to the store, past every proxy."""

    name: str
    target: Aim
    act: Act
    undo: Act

    def await_moment(self, world: World) -> None:
        """Any moment will do."""

    def inject(self, world: World) -> dict[str, Any]:
        """What `act` says."""
        return self.act(world)

    def heal(self, world: World) -> dict[str, Any]:
        """What `undo` says."""
        return self.undo(world)


def flush(_: Planned) -> StoreFault:
    """Everything in Redis is gone in one moment; only the scheduler itself can heal that."""
    return StoreFault("flush", REDIS, lambda world: {"keys": world.flush_redis()}, _nothing)


def demote(_: Planned) -> StoreFault:
    """Redis becomes a replica that takes no writes, as the old primary after a failover; what it holds stays."""

    def become(*words: str) -> Act:
        return lambda world: {"said": world.tell_redis("REPLICAOF", *words)}

    return StoreFault("demote", REDIS, become("127.0.0.1", "1"), become("NO", "ONE"))


def step_clock(planned: Planned) -> StoreFault:
    """PostgreSQL's clock steps ahead by `step_seconds` (10) against every lease."""
    seconds = float(planned.arguments.get("step_seconds", 10.0))
    return StoreFault("clock", POSTGRES, lambda world: {"leases": world.age_leases(seconds)}, _nothing)


def _nothing(world: World) -> dict[str, Any]:
    """There is nothing to undo."""
    return {}
