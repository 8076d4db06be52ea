"""What the tests stand on: real stores, a database and a stream of its own for each test, the scheduler as processes.

They are started and killed as users and faults would.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis

from scheduler.embedded import free_port

ROOT = Path(__file__).parent.parent


async def eventually(
    look: Callable[[], Any], *, within: float = 15.0, every: float = 0.05, of: str = "condition"
) -> Any:
    """The first truthy value that `look` returns. Fails after `within` seconds, saying what was last seen."""
    deadline = time.monotonic() + within
    while True:
        seen = look()
        if isinstance(seen, Awaitable):
            seen = await seen
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{of} not seen within {within} s; last seen: {seen!r}"
        await asyncio.sleep(every)


@dataclass(slots=True)
class Cluster:
    """A database, a stream, and the processes on them. `settings` are SCHEDULER_ variables without the prefix."""

    database_url: str
    redis_url: str
    folder: Path
    stream: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:10]}")
    settings: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    url: str = ""

    def environment(self, **settings: object) -> dict[str, str]:
        own = {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url, "STREAM": self.stream}
        given = {name.upper(): str(value) for name, value in settings.items()}
        clean = {name: text for name, text in os.environ.items() if not name.startswith("SCHEDULER_")}
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        named = {f"SCHEDULER_{name}": text for name, text in {**own, **self.settings, **given}.items()}
        return {**clean, "PYTHONPATH": path, **named}

    def start(self, command: str, **settings: object) -> subprocess.Popen[bytes]:
        log = self.folder / f"{command}-{len(self.processes)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "scheduler", command],
                env=self.environment(**settings),
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        return process

    async def api(self, **settings: object) -> str:
        """Start an API process and wait until it is ready. Returns its URL, which also becomes `url`."""
        port = free_port()
        self.start("api", port=port, **settings)
        self.url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(trust_env=False) as http:
            await eventually(lambda: _is_ready(http, self.url), within=30, of="a ready API")
        return self.url

    async def worker(self, **settings: object) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it holds a lease."""
        before = set(self.live_workers())
        process = self.start("worker", **settings)
        await eventually(lambda: set(self.live_workers()) - before, within=30, of="a live worker")
        return process

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def live_workers(self) -> list[str]:
        try:
            return [str(row[0]) for row in self.rows("SELECT id FROM scheduler.workers WHERE expires_at > now()")]
        except psycopg.errors.UndefinedTable:
            return []

    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url, socket_timeout=5)

    def redis_lengths(self) -> dict[str, int]:
        """Entries on the stream, pending ones, ids in the retry ZSET, dead letters."""
        with self.redis() as client:
            groups: Any = client.xinfo_groups(self.stream) if client.exists(self.stream) else []
            return {
                "stream": int(client.xlen(self.stream)),
                "pending": sum(int(group["pending"]) for group in groups),
                "retry": int(client.zcard(f"{{{self.stream}}}:retry")),
                "dlq": int(client.xlen(f"{self.stream}:dlq")),
            }

    def unfinished(self) -> int:
        return int(self.rows("SELECT count(*) FROM scheduler.jobs WHERE finished_at IS NULL")[0][0])

    def log(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        deadline = time.monotonic() + 15
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


async def _is_ready(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(f"{url}/readyz", timeout=5)).is_success
    except httpx.TransportError:
        return False
