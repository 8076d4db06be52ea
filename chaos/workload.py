"""What a run submits: a seeded mix of jobs arriving open-loop, each sent until it is accepted, every try recorded.

Arrivals keep their times whatever the system does (no coordinated omission). An answer decides the kind of an
operation: accepted is ok, refused is fail, a timeout, a cut or a 5xx is info, and info is sent again with its key.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from chaos.history import SECOND
from chaos.recorder import Recorder
from chaos.runs import Folder

REQUEST_SECONDS = 3.0
IN_FLIGHT = 500
MIX = {"NOOP": 45, "SLEEP": 25, "FLAKY": 12, "WEBHOOK": 12, "FAIL": 6}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load sends its jobs and writes what happened."""

    api_url: str
    sink_url: str
    recorder: Recorder
    folder: Folder
    seed: int


class Load(Protocol):
    """Something that submits jobs: our own arrivals, or Locust."""

    @property
    def jobs(self) -> int: ...

    async def run(self, target: Target, stop: asyncio.Event) -> None:
        """Submit everything; once `stop` is set give up on what is not accepted. Cancelled, leave nothing behind."""


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


class Client:
    """Sends one job until it is accepted; after an unknown outcome it goes on as a new process, as Jepsen's do."""

    def __init__(
        self, number: int, http: httpx.AsyncClient, recorder: Recorder, stop: asyncio.Event, *, keyed: bool
    ) -> None:
        self._number, self._http, self._recorder, self._stop, self._keyed = number, http, recorder, stop, keyed
        self._incarnation = 1
        self._rng = random.Random(number)

    async def see_accepted(self, arrival: Arrival, intended_ns: int) -> None:
        tries = 0
        while not await self._submit(arrival, intended_ns):
            tries += 1
            if self._stop.is_set():
                return
            await asyncio.sleep(self._rng.uniform(0.5, 1) * min(2.0, 0.1 * 2**tries))
        if arrival.twice:
            await self._submit(arrival, intended_ns)

    async def _submit(self, arrival: Arrival, intended_ns: int) -> bool:
        """Whether there is nothing more to try: accepted, or refused for good."""
        process = f"client-{self._number}.{self._incarnation}"
        body = arrival.body()
        op = self._recorder.invoke(process, "submit", {**body, "intended_ns": intended_ns})
        if not self._keyed:
            del body["idempotency_key"]
        try:
            answer = await self._http.post("/jobs", json=body)
            body = answer.json()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._recorder.fail(op, type(error).__name__)
            return False
        except (httpx.HTTPError, ValueError) as error:
            return self._unknown(op, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            self._unknown(op, "the run ended")
            raise
        if answer.is_success:
            self._recorder.ok(op, {"id": body["id"], "status": body["status"]})
            return True
        told = f"{answer.status_code} {body.get('detail', '')}"[:200]
        if answer.status_code >= 500:
            return self._unknown(op, told)
        self._recorder.fail(op, told)
        return answer.status_code != 429

    def _unknown(self, op: int, error: str) -> bool:
        self._recorder.info(op, error)
        self._incarnation += 1
        return False
