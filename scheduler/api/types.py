"""Which job types are known: this process's own handlers, and those that workers ever registered."""

from __future__ import annotations

import time

from scheduler.errors import UnknownType
from scheduler.jobs.registry import Registry
from scheduler.service import Service
from scheduler.storage.store import Store

PERIOD_SECONDS = 5.0  # who asks for a type that is not known has it looked up at once
FRESH_SECONDS = 0.2


class Types(Service):
    """The types known here, or ever registered by a worker: all of them may be away for a while."""

    name = "types"

    def __init__(self, store: Store, registry: Registry) -> None:
        super().__init__()
        self._store, self._registry = store, registry
        self._elsewhere: frozenset[str] = frozenset()
        self._asked_at = -1e9

    def __contains__(self, type: str) -> bool:
        return type in self._registry or type in self._elsewhere

    async def require(self, type: str, field: str) -> None:
        """Raises UnknownType, after having looked for a worker that came just now."""
        if time.monotonic() - self._asked_at > FRESH_SECONDS:
            await self.tick()
        if type not in self:
            raise UnknownType(field, type, [*self._registry, *self._elsewhere])

    async def tick(self) -> float:
        self._asked_at = time.monotonic()
        self._elsewhere = frozenset(type.name for type in await self._store.fleet())
        return PERIOD_SECONDS
