"""The demo: Locust submits 1,000 jobs at once, a worker is killed in the middle, Redis is cut for 5 s."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from chaos.errors import ChaosError
from chaos.load.load import Destination
from chaos.rack.python import ROOT, python
from chaos.record.aim import REDIS, worker
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, everyone, usual
from scheduler.embedded import Crew, Launch


@dataclass(frozen=True, slots=True)
class LocustBurst:
    """Locust, headless, in a process of its own: patched by gevent, it must not share ours. Ends by itself."""

    jobs: int
    seconds: float

    async def run(self, to: Destination, stop: asyncio.Event) -> None:
        """As `Load.run`. Raises ChaosError when Locust fails."""
        crew = Crew()
        try:
            locust = crew.start(self._launch(to))
            while locust.alive:
                await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(crew.end)
        if locust.exit_code not in {0, 1}:  # 1: some request failed, which the history tells better
            raise ChaosError(f"Locust ended with {locust.exit_code}; {locust.ending}")

    def _launch(self, to: Destination) -> Launch:
        profile, users = str(ROOT / "locustfiles" / "burst.py"), str(self.jobs)
        options = ["-f", profile, "--host", to.api_url, "-t", f"{self.seconds:.0f}s", "-u", users, "-r", users]
        module = ["locust", "--headless", "--only-summary", *options]
        return python(module, self._environment(to), to.folder.logs / "locust.log")

    def _environment(self, to: Destination) -> dict[str, str]:
        return {
            "RUN_HISTORY": str(to.folder.history.absolute()),
            "BURST_JOBS": str(self.jobs),
            "BURST_SEED": str(to.seed),
            "BURST_WEBHOOK_URL": to.sink_url,
        }


def _kill_and_cut(rng: random.Random, _: float) -> list[Planned]:
    kill = Planned(rng.uniform(0, 0.3), "kill", worker(1), 9.0, {"when_busy": True})
    return [kill, *everyone("partition.drop", 2.0 + rng.uniform(0, 0.5), REDIS, 5.0)]


DEMO = Scenario(
    name="demo",
    claim="1,000 jobs at once survive the death of a worker and a cut of Redis",
    faults=_kill_and_cut,
    settings=usual(duration=10.0, jobs=1_000, concurrency=10, steady_seconds=0.5),
    load=lambda settings: LocustBurst(settings.jobs, 90.0),
    guards=Guards(faults=2, redelivery=True),
)
