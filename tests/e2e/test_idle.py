"""What an idle installation costs both stores: counted, not timed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

# A second and process. Half of the commands are those that scripts issue: a process sends three to four.
COMMANDS, TRANSACTIONS = 10.0, 4.5
SECONDS = 5.0


async def costs(cluster: Cluster) -> tuple[float, float]:
    """Redis commands and PostgreSQL transactions a second."""

    def counted() -> tuple[int, int]:
        with cluster.redis() as client:
            stats: Any = client.info("commandstats")
        calls = sum(each["calls"] for name, each in stats.items() if name not in {"cmdstat_info", "cmdstat_client"})
        own = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        return calls, int(cluster.rows(own)[0][0])

    began, before = time.monotonic(), counted()
    await asyncio.sleep(SECONDS)
    after, seconds = counted(), time.monotonic() - began
    return (after[0] - before[0]) / seconds, (after[1] - before[1]) / seconds


async def test_an_idle_installation_asks_little_of_the_stores_and_a_larger_one_hardly_more(cluster: Cluster) -> None:
    await cluster.api()
    await cluster.worker()
    async with cluster.client() as client:
        await client.get((await client.submit("NOOP", {}))["id"], wait=10)
    await eventually(lambda: not cluster.redis_lengths()["stream"])
    await asyncio.sleep(3)  # until the keepers have found nothing several times
    commands, transactions = await costs(cluster)
    assert (commands < 2 * COMMANDS, transactions < 2 * TRANSACTIONS) == (True, True), (commands, transactions)
    for _ in range(2):
        await cluster.worker()
    await asyncio.sleep(6)
    commands, transactions = await costs(cluster)
    assert (commands < 4 * COMMANDS, transactions < 4 * TRANSACTIONS) == (True, True), (commands, transactions)
