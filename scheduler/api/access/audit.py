"""Who asked for what cannot be undone, and what was refused: gathered here, written to PostgreSQL beside the requests.

Each call that was let in is a row, written before its effect is known. Refusals are counted by address, key and status:
a flood of them fills neither memory nor log nor disk.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.types import Scope

from scheduler.errors import Denied
from scheduler.facts.facts import AUDIT_LOST, TURNED_AWAY, tell
from scheduler.service import Service
from scheduler.storage.store import Store

PERIOD_SECONDS, REFUSED_SECONDS, PRUNE_SECONDS = 1.0, 10.0, 60.0
MAX_HELD = 10_000
BATCH = 5_000
MOST_KINDS = 20  # of refusals in REFUSED_SECONDS; those of further ones are counted together


class Audit(Service):
    """The rows to come, and the loop that writes and prunes them."""

    name = "audit"

    def __init__(self, store: Store, retention_seconds: float) -> None:
        super().__init__()
        self._store, self._retention = store, retention_seconds
        self._held: list[dict[str, Any]] = []
        self._refused: dict[tuple[str, str, int], dict[str, Any]] = {}
        self._refused_at = self._prune_at = 0.0

    def did(self, scope: Scope, action: str, detail: str) -> None:
        """A caller asked for this, and may."""
        self._hold(_row(address(scope), scope["caller"].name, action, detail))

    def refused(self, scope: Scope, caller: str, error: Denied) -> None:
        """A request was refused."""
        kind = (address(scope), caller, error.status)
        if kind not in self._refused and len(self._refused) >= MOST_KINDS:
            kind = ("others", "", error.status)
        row = _row(kind[0], kind[1], f"{scope['method']} {scope['path']}", str(error), error.status)
        self._refused.setdefault(kind, row)["calls"] += 1

    async def run(self, stop: asyncio.Event) -> None:
        await super().run(stop)
        self._refused_at = 0.0
        await self._guarded_tick()

    async def tick(self) -> float:
        if self._refused and time.monotonic() >= self._refused_at:
            gathered, self._refused = self._refused.values(), {}
            self._refused_at = time.monotonic() + REFUSED_SECONDS
            for row in gathered:
                told = f"{row['action']} from {row['address']}: {row['status']} {row['detail']}"
                tell(TURNED_AWAY, row["calls"], requests=row["calls"], caller=row["caller"], reason=told)
                self._hold(row)
        if batch := self._held[:BATCH]:
            await self._store.note(batch, time.monotonic())
            del self._held[: len(batch)]
        if (now := time.monotonic()) >= self._prune_at:
            pruned = await self._store.prune_audit(self._retention, BATCH)
            self._prune_at = now + (PRUNE_SECONDS if pruned < BATCH else 0.0)
        return PERIOD_SECONDS

    def _hold(self, row: dict[str, Any]) -> None:
        if len(self._held) < MAX_HELD:
            self._held.append(row)
        else:
            tell(AUDIT_LOST)


def address(scope: Scope) -> str:
    """The sender's."""
    return str((scope.get("client") or ("unknown",))[0])


def _row(address: str, caller: str, action: str, detail: str, status: int | None = None) -> dict[str, Any]:
    """`status` is of a refusal, and `calls` yet to be counted; else it is one call."""
    texts = {"address": address, "caller": caller, "action": action, "detail": detail}
    row = {name: text[:300].encode("ascii", "backslashreplace").decode() for name, text in texts.items()}
    shown = {name: text.replace("\x00", r"\x00") for name, text in row.items()}  # PostgreSQL cannot store it
    return {"at": time.monotonic(), **shown, "status": status, "calls": 0 if status else 1}
