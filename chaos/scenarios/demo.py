"""The demo: Locust submits 1,000 jobs at once, a worker is killed in the middle, Redis is cut for 5 s."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from chaos.errors import ChaosError
from chaos.load.load import Destination
from chaos.record.aim import REDIS, worker
from chaos.record.plan import Guards, Planned
from chaos.scenarios.scenario import Scenario, everyone, usual

ROOT = Path(__file__).parent.parent.parent
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LocustBurst:
    """Locust, headless, in a process of its own: patched by gevent, it must not share ours. Ends by itself."""

    jobs: int
    seconds: float

    async def run(self, to: Destination, stop: asyncio.Event) -> None:
        """As `Load.run`. Raises ChaosError when Locust fails."""
        log = to.folder.logs / "locust.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self._command(to),
                cwd=ROOT,
                env=os.environ | self._environment(to),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                await process.wait()
            finally:
                await _end(process)
        if process.returncode not in {0, 1}:  # 1: some request failed, which the history tells better
            raise ChaosError(f"Locust ended with {process.returncode}; see {log}")

    def _command(self, to: Destination) -> list[str]:
        options = ["-f", "locustfiles/burst.py", "--host", to.api_url, "-t", f"{self.seconds:.0f}s"]
        users = str(self.jobs)
        return [sys.executable, "-m", "locust", "--headless", "--only-summary", *options, "-u", users, "-r", users]

    def _environment(self, to: Destination) -> dict[str, str]:
        return {
            "RUN_HISTORY": str(to.folder.history.absolute()),
            "BURST_JOBS": str(self.jobs),
            "BURST_SEED": str(to.seed),
            "BURST_WEBHOOK_URL": to.sink_url,
        }


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
    if process.returncode is None:
        process.kill()
        await process.wait()


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
