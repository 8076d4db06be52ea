"""Thousands of hostile requests against one API process, beside a client that only wants /healthz.

No answer may be a 5xx or an error that is no problem document, no refused request may leave a row, memory may grow by
64 MiB (more where batches of 16 MB are legal), and the other client may not be kept waiting for more than 0.1 s longer
than in a calm phase before. What counts is `Look.held`: the wait, or the processor time that the API used then where
that is less. A loop that is held works all the while, so it is caught; a machine that has no time for the API makes it
wait without working, and fails nothing.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.hostile import watcher
from tests.hostile.attacks import Attack, large, small
from tests.hostile.generated import attack
from tests.hostile.watcher import Look
from tests.hostile.wire import Wire

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e, pytest.mark.slow]
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
GENERATED, SEED = (100_000, int(time.time())) if IS_LONG else (10_000, 1)
LONGEST_DELAY, MOST_GROWTH = 0.1, 64 << 20
CALM_SECONDS, CLIENTS = 1.5, 4


class Siege:
    """Attacks on one API, and what came of them."""

    def __init__(self, url: str) -> None:
        self.url, self.accepted = url, set[str]()
        self.faults: list[str] = []
        self.times: list[tuple[float, float, str]] = []

    async def lay(self, attacks: Iterable[Attack], clients: int) -> None:
        """Make all of them, so many at a time."""
        left = iter(attacks)
        await asyncio.gather(*(self._client(left) for _ in range(clients)))

    async def _client(self, left: Iterator[Attack]) -> None:
        wire = Wire(self.url)
        try:
            for each in left:
                began = time.monotonic()
                await (wire.throw(each.raw) if each.cut else self._judge(wire, each))
                self.times.append((began, time.monotonic(), each.name))
        finally:
            wire.close()

    async def _judge(self, wire: Wire, each: Attack) -> None:
        try:
            answer = await wire.ask(each.raw)
        except TimeoutError:
            self.faults.append(f"{each.name}: no answer")
            wire.close()
            return
        self.accepted.update(answer.jobs)
        if answer.fault:
            self.faults.append(f"{each.name}: {answer.fault}")
        elif each.refused and answer.status < 400:
            self.faults.append(f"{each.name}: answered {answer.status}")

    def during(self, look: Look) -> str:
        """What was under way when somebody looked."""
        return ", ".join(name for began, ended, name in self.times if began < look.at + look.waited and look.at < ended)


@contextmanager
def watching(url: str, pid: int, into: Path) -> Iterator[None]:
    """Have another process look at /healthz while the block runs."""
    with into.open("wb") as out:
        words = [sys.executable, "-m", watcher.__name__, url, str(pid)]
        process = subprocess.Popen(words, stdout=out, cwd=Path(__file__).parents[2])
    try:
        yield
        assert process.poll() is None, "the watcher got no answer"
    finally:
        process.kill()
        process.wait()


def looks(file: Path) -> list[Look]:
    """What the watcher saw."""
    lines = [line.split() for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [Look(float(at), float(waited), float(worked), int(memory)) for at, waited, worked, memory in lines]


async def besieged(
    cluster: Cluster, attacks: Iterable[Attack], clients: int, tmp_path: Path, most_growth: int = MOST_GROWTH
) -> None:
    """Have an API attacked and watched; fail for whatever it must not do."""
    siege, seen = Siege(await cluster.api(store_deadline_seconds=20)), tmp_path / "looks"
    await siege.lay(list(small())[:50], 1)  # imports and caches are not its growth
    with watching(siege.url, cluster.processes[0].pid, seen):
        await asyncio.sleep(CALM_SECONDS)
        calm_until = time.monotonic()
        await siege.lay(attacks, clients)
        await asyncio.sleep(0.2)
    calm = [look for look in looks(seen) if look.at + look.waited < calm_until]
    later = looks(seen)[len(calm) :]
    worst = max(later, key=lambda look: look.held)
    delay = worst.held - max(look.held for look in calm)
    growth = later[-1].memory - calm[-1].memory
    assert siege.faults == []
    assert {str(row[0]) for row in cluster.rows("SELECT id FROM scheduler.jobs")} == siege.accepted
    assert delay < LONGEST_DELAY, f"{delay:.3f} s (waited {worst.waited:.3f} s) during {siege.during(worst)}"
    assert growth < most_growth, f"{growth >> 20} MiB"
    assert "request_failed" not in cluster.log()


async def test_every_small_attack_made_by_hand_is_answered_and_holds_up_nobody(
    cluster: Cluster, tmp_path: Path
) -> None:
    attacks = list(small())
    assert len(attacks) >= 300
    await besieged(cluster, attacks, 1, tmp_path)


async def test_every_large_attack_made_by_hand_is_answered_and_holds_up_nobody(
    cluster: Cluster, tmp_path: Path
) -> None:
    await besieged(cluster, large(), 1, tmp_path, most_growth=160 << 20)


@pytest.mark.timeout(3_600)
async def test_generated_attacks_are_answered_and_hold_up_nobody(cluster: Cluster, tmp_path: Path) -> None:
    await besieged(cluster, (attack(SEED, n) for n in range(GENERATED)), CLIENTS, tmp_path)
