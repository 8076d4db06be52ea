"""Which jobs a profile submits: a seeded, endless mix of fast, slow, flaky and failing ones. No HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

WEIGHTS = {"NOOP": 55, "SLEEP": 20, "WEBHOOK": 10, "FLAKY": 10, "FAIL": 5}


@dataclass(frozen=True, slots=True)
class Job:
    """One request for work, and the status it must end with when every promise holds."""

    type: str
    payload: dict[str, object]
    idempotency_key: str

    @property
    def expected_status(self) -> str:
        return "FAILED" if self.type == "FAIL" else "COMPLETED"

    def body(self) -> dict[str, object]:
        return {"type": self.type, "payload": self.payload, "idempotency_key": self.idempotency_key}


def jobs(seed: int, key_prefix: str, webhook_url: str | None = None) -> Iterator[Job]:
    """The same seed gives the same types and payloads; `key_prefix` sets one start apart from the next."""
    rng = random.Random(seed)
    weights = {kind: weight for kind, weight in WEIGHTS.items() if webhook_url or kind != "WEBHOOK"}
    number = 0
    while True:
        number += 1
        (kind,) = rng.choices(list(weights), list(weights.values()))
        yield Job(kind, _payload(kind, number, rng, webhook_url), f"{key_prefix}-{number}")


def _payload(kind: str, number: int, rng: random.Random, webhook_url: str | None) -> dict[str, object]:
    match kind:
        case "SLEEP":
            return {"seconds": round(rng.uniform(0.1, 1.0), 3)}
        case "FLAKY":
            return {"failures": rng.choice((1, 1, 1, 2))}
        case "FAIL":
            return {"message": f"job {number} always fails"}
        case "WEBHOOK":
            return {"url": webhook_url, "body": {"number": number}}
        case _:
            return {}
