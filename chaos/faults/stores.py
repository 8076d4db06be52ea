"""What befalls a store itself, and not the way to it.

Redis forgets, takes no writes, or another server takes its place. PostgreSQL's clock steps, its settings change, or
another session holds a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chaos.faults.fault import World
from chaos.record.aim import POSTGRES, REDIS, Aim
from chaos.record.plan import Planned

SETTING = {"name": "synchronous_commit", "value": "off"}
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


def hold_key(planned: Planned) -> StoreFault:
    """Another session of PostgreSQL has submitted under the idempotency key `key` (held-0), and does not commit."""
    key = str(planned.arguments.get("key", "held-0"))

    def hold(world: World) -> dict[str, Any]:
        world.hold_key(key)
        return {"key": key}

    return StoreFault("key_held", POSTGRES, hold, _done(lambda world: world.free_key(key)))


def configure(planned: Planned) -> StoreFault:
    """New sessions of PostgreSQL start with `name` (synchronous_commit) set to `value` (off), and that stays."""
    name, value = (str(planned.arguments.get(each, usual)) for each, usual in SETTING.items())

    def alter(world: World) -> dict[str, Any]:
        world.configure_postgres(name, value)
        return {"name": name, "value": value}

    return StoreFault("configure", POSTGRES, alter, _nothing)


def fail_over(_: Planned) -> StoreFault:
    """Redis's replica becomes the master behind the same address; at heal the two part, and the next one is stale."""
    return StoreFault(
        "failover", REDIS, lambda world: {"port": world.fail_over_redis()}, _done(lambda world: world.part_redis())
    )


def _done(act: Callable[[World], None]) -> Act:
    def acted(world: World) -> dict[str, Any]:
        act(world)
        return {}

    return acted


def _nothing(world: World) -> dict[str, Any]:
    """There is nothing to undo."""
    return {}
