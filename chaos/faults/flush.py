"""Redis forgets everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chaos.faults.fault import World
from chaos.record.aim import REDIS, Aim


@dataclass(frozen=True, slots=True)
class FlushFault:
    """Everything in Redis is gone in one moment; only the scheduler itself can heal that."""

    name: str = "flush"
    target: Aim = REDIS

    def await_moment(self, world: World) -> None:
        """Any moment will do."""

    def inject(self, world: World) -> dict[str, Any]:
        """Returns how many `keys` were lost."""
        return {"keys": world.flush_redis()}

    def heal(self, world: World) -> dict[str, Any]:
        """There is nothing to undo."""
        return {}
