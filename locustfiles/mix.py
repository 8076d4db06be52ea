"""The jobs of a profile: the harness's mix as a seeded, endless row. No HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator

from chaos.load.mix import MIX, Job, payload

SLEEP_SECONDS = (0.1, 1.0)


def jobs(seed: int, key_prefix: str, webhook_url: str | None = None) -> Iterator[Job]:
    """The same seed gives the same types and payloads; `key_prefix` sets one start apart from the next."""
    rng = random.Random(seed)
    weights = {type: weight for type, weight in MIX.items() if webhook_url or type != "WEBHOOK"}
    number = 0
    while True:
        number += 1
        (type,) = rng.choices(list(weights), list(weights.values()))
        made = payload(type, number, rng, sleep_seconds=SLEEP_SECONDS, webhook_url=webhook_url or "")
        yield Job(type, made, f"{key_prefix}-{number}")
