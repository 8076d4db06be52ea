"""Which jobs a load submits: their types, in which shares, with which payloads. Seeded; knows no HTTP and no queue."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

HELD = "held-"  # keys that somebody else's transaction holds for a while, numbered
LOOPS = ("settler", "reader", "rescuer", "reconciler", "promoter")  # of a worker
MIX = {"NOOP": 45, "SLEEP": 25, "FLAKY": 12, "WEBHOOK": 12, "FAIL": 6}


@dataclass(frozen=True, slots=True)
class Job:
    """One request for work, under the key that makes it one job however often it is sent."""

    type: str
    payload: dict[str, Any]
    idempotency_key: str

    @property
    def expected_status(self) -> str:
        """What it must end with when every promise holds."""
        return "FAILED" if self.type in {"FAIL", "CRASH"} else "COMPLETED"

    def bare(self) -> dict[str, Any]:
        """Without its key."""
        return {"type": self.type, "payload": self.payload}

    def body(self) -> dict[str, Any]:
        """As it is written down in a history, and as our API takes it."""
        return {**self.bare(), "idempotency_key": self.idempotency_key}


def payload(
    type: str, number: int, rng: random.Random, *, sleep_seconds: tuple[float, float], webhook_url: str
) -> dict[str, Any]:
    """The input of the `number`-th job; bodies that take time take between the two lengths."""
    match type:
        case "SLEEP" | "BLOCK" | "RARE":
            return {"seconds": round(rng.uniform(*sleep_seconds), 3)}
        case "FLAKY" | "OVERTIME" | "OVERTIME-PLAIN":
            return {"failures": rng.choice((1, 1, 2))}
        case "FAIL":
            return {"message": f"job {number} always fails"}
        case "RAISE" | "RAISE-PLAIN":
            return {"failures": rng.choice((1, 1, 2)), "error": rng.choice(("exotic", "keyboard", "exit", "stop"))}
        case "WEBHOOK":
            return {"url": webhook_url, "body": {"number": number}}
        case _:
            return {"loop": LOOPS[number % len(LOOPS)]} if type == "END-LOOP" else {}
