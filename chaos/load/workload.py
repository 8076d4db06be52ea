"""Seeded jobs arriving open-loop: they keep their times whatever the system does (no coordinated omission)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import httpx

from chaos.load.client import REQUEST_SECONDS, Client
from chaos.load.load import Destination
from chaos.load.mix import HELD, MIX, Job, payload
from chaos.record.history import SECOND
from chaos.record.plan import Settings
from chaos.record.recorder import Recorder

CANCEL_SECONDS = (0.2, 1.0)  # from a job's acceptance to its cancelling, at full pace
IN_FLIGHT = 500  # connections of the clients together; not measured
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Arrival:
    """One job that a client wants, `at` seconds after the start; `twice`: the client sends it again after success.

    `cancel_after`: so many seconds after it was accepted, its client wants it no more.
    """

    at: float
    job: Job
    twice: bool = False
    cancel_after: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The plan's jobs as Poisson arrivals over `seconds` (None: until the faults end; 0: all at once).

    Every twentieth is sent twice on purpose. With `bursts` they come in so many crowds instead, evenly spread.
    `sleep_seconds` bounds the bodies that take time, at full pace.
    """

    settings: Settings
    seconds: float | None = None
    mix: Mapping[str, int] = field(default_factory=lambda: MIX)
    sleep_seconds: tuple[float, float] = (0.5, 3.0)
    bursts: int = 0
    together: bool = False  # each crowd in one request, the types in the order of the mix
    cancelled: float = 0.0  # which share is cancelled by its client soon after
    held: Sequence[float] = ()  # from when on jobs arrive whose keys, `held-0` and so on, somebody else holds by then

    @property
    def jobs(self) -> int:
        """How many arrive, those sent twice counted once."""
        return self.settings.jobs + len(self.held)

    def arrivals(self, seed: int, sink_url: str) -> list[Arrival]:
        """The same seed gives the same jobs at the same times."""
        rng = random.Random(seed)
        jobs, names = self.settings.jobs, list(self.mix)
        times = sorted(self._when(rng) for _ in range(jobs))
        types = rng.choices(names, list(self.mix.values()), k=jobs)
        for at, name in zip(rng.sample(range(jobs), min(jobs, len(names))), names, strict=False):
            types[at] = name  # however few jobs there are, each type is among them
        low, high = (each * self.settings.pace for each in self.sleep_seconds)
        made = [payload(type, n, rng, sleep_seconds=(low, high), webhook_url=sink_url) for n, type in enumerate(types)]
        arrivals = [
            Arrival(at, Job(type, given, f"s{seed}-{n}"), n % 20 == 7, self._cancel_after(rng))
            for n, (at, type, given) in enumerate(zip(times, types, made, strict=True))
        ]
        arrivals += [Arrival(at, Job("NOOP", {}, f"{HELD}{n}")) for n, at in enumerate(self.held)]
        return sorted(arrivals, key=lambda each: each.at)

    def _cancel_after(self, rng: random.Random) -> float | None:
        wanted = self.cancelled and rng.random() < self.cancelled
        return rng.uniform(*CANCEL_SECONDS) * self.settings.pace if wanted else None

    def _when(self, rng: random.Random) -> float:
        seconds = self.settings.load_seconds if self.seconds is None else self.seconds
        at = rng.uniform(0, seconds)
        return at if not self.bursts else int(at / seconds * self.bursts) * seconds / self.bursts

    async def run(self, to: Destination, stop: asyncio.Event) -> None:
        """As `Load.run`."""
        started_ns = time.monotonic_ns()
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=100)
        timeout = httpx.Timeout(REQUEST_SECONDS, pool=None)
        client = httpx.AsyncClient(base_url=to.api_url, headers=JSON, limits=limits, timeout=timeout, trust_env=False)
        async with client as http, asyncio.TaskGroup() as group:
            for number, crowd in enumerate(self._crowds(to)):
                intended_ns = started_ns + round(crowd[0].at * SECOND)
                await asyncio.sleep(max(0.0, (intended_ns - time.monotonic_ns()) / SECOND))
                own = Client(number, to.target, http, to.recorder, keyed=self.settings.keyed)
                if self.together:
                    group.create_task(_all_together(own, crowd, intended_ns))
                else:
                    group.create_task(_see_through(own, crowd[0], intended_ns, stop, to.recorder))

    def _crowds(self, to: Destination) -> list[list[Arrival]]:
        """What is sent at a time: one job, or all that come together."""
        arrivals = self.arrivals(to.seed, to.sink_url)
        if not self.together:
            return [[each] for each in arrivals]
        order = list(self.mix).index
        crowds = groupby(arrivals, lambda each: each.at)
        return [sorted(crowd, key=lambda each: order(each.job.type)) for _, crowd in crowds]


async def _see_through(
    client: Client, arrival: Arrival, intended_ns: int, stop: asyncio.Event, recorder: Recorder
) -> None:
    if (key := arrival.job.idempotency_key).startswith(HELD):
        while not stop.is_set() and recorder.happened["key_held"] <= int(key.removeprefix(HELD)):
            await asyncio.sleep(0.02)
    if await client.see_accepted(arrival.job, intended_ns, stop) and arrival.twice:
        await client.submit(arrival.job, intended_ns)


async def _all_together(client: Client, crowd: Sequence[Arrival], intended_ns: int) -> None:
    ids = await client.submit_together([arrival.job for arrival in crowd], intended_ns)
    async with asyncio.TaskGroup() as group:
        for job_id, arrival in zip(ids, crowd, strict=False):
            if arrival.cancel_after is not None:
                group.create_task(_cancel_later(client, job_id, arrival.cancel_after))


async def _cancel_later(client: Client, job_id: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await client.cancel(job_id)
