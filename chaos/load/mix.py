"""The jobs themselves: which types in which shares, and the arrival that carries one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MIX = {"NOOP": 45, "SLEEP": 25, "FLAKY": 12, "WEBHOOK": 12, "FAIL": 6}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One job that a client wants, `at` seconds after the start; `twice`: the client sends it again after success."""

    at: float
    type: str
    payload: dict[str, Any]
    key: str
    twice: bool = False

    def body(self) -> dict[str, Any]:
        return {"type": self.type, "payload": self.payload, "idempotency_key": self.key}
