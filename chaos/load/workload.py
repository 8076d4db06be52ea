"""Seeded jobs arriving open-loop: they keep their times whatever the system does (no coordinated omission)."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx

from chaos.load.client import REQUEST_SECONDS, Client
from chaos.load.load import Target
from chaos.load.mix import MIX, Arrival
from chaos.record.history import SECOND

IN_FLIGHT = 500


@dataclass(frozen=True, slots=True)
class Workload:
    """`jobs` Poisson arrivals over `seconds`; every twentieth is sent twice on purpose. 0 seconds: all at once.

    With `bursts` they come in so many crowds instead, evenly spread. `keyed=False` is a client that forgets its key.
    """

    jobs: int = 400
    seconds: float = 30.0
    mix: tuple[tuple[str, int], ...] = tuple(MIX.items())
    sleep_seconds: tuple[float, float] = (0.5, 3.0)
    bursts: int = 0
    keyed: bool = True

    def arrivals(self, seed: int, sink_url: str) -> list[Arrival]:
        """The same seed gives the same jobs at the same times."""
        rng = random.Random(seed)
        times = sorted(self._when(rng) for _ in range(self.jobs))
        names = [name for name, _ in self.mix]
        types = rng.choices(names, [weight for _, weight in self.mix], k=self.jobs)
        for at, name in zip(rng.sample(range(self.jobs), min(self.jobs, len(names))), names, strict=False):
            types[at] = name  # however few jobs there are, each type is among them
        return [
            Arrival(at, kind, self._payload(kind, n, rng, sink_url), f"s{seed}-{n}", twice=n % 20 == 7)
            for n, (at, kind) in enumerate(zip(times, types, strict=True))
        ]

    def _when(self, rng: random.Random) -> float:
        at = rng.uniform(0, self.seconds)
        return at if not self.bursts else int(at / self.seconds * self.bursts) * self.seconds / self.bursts

    def _payload(self, kind: str, number: int, rng: random.Random, sink_url: str) -> dict[str, Any]:
        match kind:
            case "SLEEP" | "BLOCK":
                return {"seconds": round(rng.uniform(*self.sleep_seconds), 3)}
            case "FLAKY":
                return {"failures": rng.choice((1, 1, 2))}
            case "FAIL":
                return {"message": f"job {number} always fails"}
            case "WEBHOOK":
                return {"url": sink_url, "body": {"number": number}}
            case _:
                return {}

    async def run(self, target: Target, stop: asyncio.Event) -> None:
        started_ns = time.monotonic_ns()
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=100)
        timeout = httpx.Timeout(REQUEST_SECONDS, pool=None)
        async with (
            httpx.AsyncClient(base_url=target.api_url, limits=limits, timeout=timeout, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for number, arrival in enumerate(self.arrivals(target.seed, target.sink_url)):
                intended_ns = started_ns + round(arrival.at * SECOND)
                await asyncio.sleep(max(0.0, (intended_ns - time.monotonic_ns()) / SECOND))
                client = Client(number, http, target.recorder, stop, keyed=self.keyed)
                group.create_task(client.see_accepted(arrival, intended_ns))
