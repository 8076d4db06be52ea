"""`scheduler bench`: drain and end-to-end rates beside what the bare stores do, side by side in one run.

Every repetition measures all four in turn, so that a slow phase of the machine meets them alike. Quote the ratios.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scheduler.embedded import embedded, free_port
from scheduler.errors import SchedulerError
from scheduler.jobs.job import IdSequence, NewJob
from scheduler.storage.postgres import Id, Ids, Postgres
from scheduler.storage.store import QUERIES, Store, migrate
from scheduler.storage.stream import Stream, connect

BATCH = 500
SENDERS = 4
PAYLOAD = {"to": "someone@example.com", "subject": "hello", "body": "x" * 120}
DEADLINE_SECONDS = 300.0
Measure = Callable[[], Coroutine[Any, Any, float]]


class Bench:
    """The stores under test, and the four measurements; each returns jobs per second."""

    def __init__(self, database_url: str, redis_url: str, jobs: int) -> None:
        self.jobs = jobs
        self._environment = {**os.environ, "SCHEDULER_DATABASE_URL": database_url, "SCHEDULER_REDIS_URL": redis_url,
                             "SCHEDULER_PORT": str(free_port()), "SCHEDULER_LOG_LEVEL": "WARNING"}  # fmt: skip
        self._postgres = Postgres(database_url, size=4, deadline_seconds=60, name="bench")
        self._store = Store(self._postgres)
        self._stream = Stream(redis_url, stream="jobs_stream", group="workers", deadline_seconds=60, name="bench")
        self._redis = connect(redis_url, deadline_seconds=60, name="bench")
        self._ids = IdSequence()

    def measures(self) -> dict[str, Measure]:
        return {
            "bare PostgreSQL: insert, claim, complete": self.bare_postgres,
            "bare Redis: publish, read, ack": self.bare_redis,
            "drain of a prefilled queue, one worker": self.drain,
            "end to end over HTTP in batches of 500": self.end_to_end,
        }

    async def prepare(self) -> None:
        await migrate(self._postgres)

    async def close(self) -> None:
        await self._store.close()
        await self._stream.close()
        await self._redis.aclose()

    def _new_jobs(self, count: int) -> list[NewJob]:
        payload = msgspec.json.encode(PAYLOAD).decode()
        ids = self._ids.take(count, time.time_ns(), os.urandom(8 * count))
        return [NewJob(job_id, "NOOP", payload, 4) for job_id in ids]

    async def _fresh(self) -> None:
        await self._postgres.fetch("TRUNCATE scheduler.jobs, scheduler.attempts, scheduler.dead_letters")
        await self._postgres.fetch("CHECKPOINT")
        await self._redis.flushall()
        await self._stream.ensure_group()

    async def bare_postgres(self) -> float:
        """The three statements a job needs, in the same batches on one connection, and nothing else."""
        await self._fresh()
        worker = Id(self._ids.take(1, time.time_ns(), os.urandom(8))[0])
        await self._store.heartbeat(worker, name="bench", lease_seconds=600, types=[], counters="{}")
        batches = [self._new_jobs(BATCH) for _ in range(self.jobs // BATCH)]
        began = time.monotonic()
        for batch in batches:
            await self._store.insert(batch)
            ids = Ids(job.id for job in batch)
            await self._postgres.fetch(QUERIES["claim"], {"ids": ids, "worker": worker})
            await self._postgres.change(QUERIES["complete"], {"ids": ids, "fence": 1})
        rate = self.jobs / (time.monotonic() - began)
        await self._store.deregister(worker)
        return rate

    async def bare_redis(self) -> float:
        await self._fresh()
        batches = [[job.id for job in self._new_jobs(BATCH)] for _ in range(self.jobs // BATCH)]
        began = time.monotonic()
        for batch in batches:
            await self._stream.publish(batch)
            deliveries = await self._stream.read("bench", BATCH)
            await self._stream.ack([delivery.entry for delivery in deliveries])
        return self.jobs / (time.monotonic() - began)

    async def drain(self) -> float:
        """From the first claim to the last commit, by PostgreSQL's clock."""
        await self._fresh()
        for _ in range(self.jobs // BATCH):
            batch = self._new_jobs(BATCH)
            await self._store.insert(batch)
            await self._stream.publish([job.id for job in batch])
        async with self._running("worker"):
            await self._all_final()
        rows = await self._postgres.fetch(
            "SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM scheduler.jobs"
        )
        return self.jobs / float(rows[0][0])

    async def end_to_end(self) -> float:
        """From the first request to the last commit; API, worker, stores and this sender share the machine."""
        await self._fresh()
        body = msgspec.json.encode({"jobs": [{"type": "NOOP", "payload": PAYLOAD}] * BATCH})
        async with self._running("api"), self._running("worker"):
            await self._ready()
            began = time.time()
            await self._send(body)
            await self._all_final()
        rows = await self._postgres.fetch("SELECT extract(epoch FROM max(finished_at))::float8 FROM scheduler.jobs")
        return self.jobs / (float(rows[0][0]) - began)

    async def _send(self, body: bytes) -> None:
        left = iter(range(self.jobs // BATCH))
        url = f"http://127.0.0.1:{self._environment['SCHEDULER_PORT']}/jobs/batch"
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:

            async def sender() -> None:
                for _ in left:
                    answer = await http.post(url, content=body)
                    if answer.status_code != 202:
                        raise SchedulerError(f"the API answered {answer.status_code}: {answer.text[:200]}")

            await asyncio.gather(*[sender() for _ in range(SENDERS)])

    async def _ready(self) -> None:
        url = f"http://127.0.0.1:{self._environment['SCHEDULER_PORT']}/readyz"
        async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
            while True:
                try:
                    if (await http.get(url)).is_success and await self._store.workers():
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def _all_final(self) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self._unfinished():
                await asyncio.sleep(0.2)

    async def _unfinished(self) -> bool:
        rows = await self._postgres.fetch("SELECT count(*) = 0 OR bool_or(finished_at IS NULL) FROM scheduler.jobs")
        return bool(rows[0][0])

    @asynccontextmanager
    async def _running(self, command: str) -> AsyncIterator[None]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scheduler", command, env=self._environment
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                async with asyncio.timeout(20):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _measure(database_url: str, redis_url: str, jobs: int, repeats: int) -> dict[str, list[float]]:
    bench = Bench(database_url, redis_url, jobs)
    await bench.prepare()
    rates: dict[str, list[float]] = {name: [] for name in bench.measures()}
    try:
        with Progress(transient=True) as progress:
            work = progress.add_task("measuring", total=repeats * len(rates))
            for _ in range(repeats):
                for name, measure in bench.measures().items():
                    progress.update(work, description=name)
                    rates[name].append(await measure())
                    progress.advance(work)
    finally:
        await bench.close()
    return rates


def run_bench(jobs: int, repeats: int, out: Console) -> int:
    """Measure on embedded stores in a temporary folder and print a table. Returns the exit code."""
    jobs -= jobs % BATCH
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scheduler-bench-", ignore_cleanup_errors=True))
        stores = stack.enter_context(embedded(Path(folder), keep=False))
        rates = asyncio.run(_measure(stores.postgres.url, stores.redis.url, jobs, repeats))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    reference = next(iter(medians.values()))
    table = Table("what", "median jobs/s", "min – max", "share of bare PostgreSQL")
    for name, values in rates.items():
        spread = f"{min(values):,.0f} – {max(values):,.0f}"
        table.add_row(name, f"{medians[name]:,.0f}", spread, f"{medians[name] / reference:.2f}")
    table.title = f"{jobs:,} no-op jobs, {repeats} repetitions"
    table.caption = (
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}; every guarantee on"
    )
    out.print(table)
    return 0
