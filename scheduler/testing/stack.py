"""A throw-away stack: a database, a stream, and on them API and workers as the real processes that they are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis

from scheduler.client import Client
from scheduler.embedded import Child, ChildFailed, Crew, Launch, free_port
from scheduler.errors import ConfigurationError, SchedulerError, nearest
from scheduler.settings import PREFIX, Settings
from scheduler.testing.waiting import eventually

START_SECONDS = 30.0
LOG_TAIL = 5_000


@dataclass(frozen=True, slots=True)
class StoreUrls:
    """The servers that stacks are made on."""

    database_url: str
    redis_url: str


@dataclass(slots=True)
class Stack:
    """`settings` are fields of Settings, for every process started later; those given at a start take precedence.

    Processes work in the test's folder, import what the test can import, and die with it (on Linux, however it dies).
    """

    database_url: str
    redis_url: str
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    stream: str = field(default_factory=lambda: f"test_{uuid.uuid4().hex[:12]}")
    crew: Crew = field(default_factory=Crew)
    url: str = ""

    @property
    def processes(self) -> list[subprocess.Popen[bytes]]:
        """Every process that was started, in that order."""
        return [child.process for child in self.crew.children.values()]

    def environment(self, **settings: Any) -> dict[str, str]:
        """The variables of a process on this stack, such as a `scheduler` command that the test runs itself."""
        own = {"database_url": self.database_url, "redis_url": self.redis_url, "stream": self.stream, "samples": True}
        given = {_field(name): value for each in (own, self.settings, settings) for name, value in each.items()}
        clean = {name: text for name, text in os.environ.items() if not name.startswith(PREFIX)}
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        return {**clean, "PYTHONPATH": path, **{PREFIX + name.upper(): _text(given[name]) for name in given}}

    def start(self, command: str, **settings: Any) -> subprocess.Popen[bytes]:
        """Start `scheduler COMMAND`, and wait for nothing."""
        return self._start(command, settings).process

    def _start(self, command: str, settings: dict[str, Any]) -> Child:
        name, words = f"{command}-{len(self.processes)}", [sys.executable, "-m", "scheduler", command]
        log, environment = self.folder / f"{name}.log", self.environment(**settings)
        return self.crew.start(Launch(name, words, log, environment, folder="."))

    async def api(self, **settings: Any) -> str:
        """Start an API process and wait until it is ready. Returns its URL, which also becomes `url`."""
        port = settings.setdefault("port", free_port())
        api = self._start("api", settings)
        self.url = f"http://127.0.0.1:{port}"

        async def is_ready() -> bool:
            _check(api)
            with suppress(httpx.TransportError):
                return (await http.get(f"{self.url}/readyz")).is_success
            return False

        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            await eventually(is_ready, within=START_SECONDS, of="a ready API")
        return self.url

    async def worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it is registered, or has died at a crash point. Raises SchedulerError."""
        worker = self._start("worker", settings)
        name = f"{socket.gethostname()}:{worker.pid}"
        armed = "SCHEDULER_CRASH_POINTS" in self.environment(**settings)

        def is_registered() -> bool:
            crashed = armed and worker.exit_code == -signal.SIGKILL
            if not crashed:
                _check(worker)
            with suppress(psycopg.errors.UndefinedTable):  # until the worker has made the tables
                return crashed or bool(self.rows("SELECT FROM scheduler.workers WHERE name = %s", name))
            return crashed

        await eventually(is_registered, within=START_SECONDS, of="a registered worker")
        return worker.process

    def client(self, **options: Any) -> Client:
        """A client of the API that was started last, as an async context manager."""
        if not self.url:
            raise ConfigurationError("this stack has no API yet; `await stack.api()` starts one")
        return Client(self.url, **options)

    async def drained(self, within: float = 30.0) -> None:
        """Wait until every job is final and nothing in Redis could run one again."""

        def left() -> dict[str, int]:
            try:
                lengths = {"unfinished": self.unfinished(), **self.redis_lengths()}
            except redis.ResponseError as error:  # of a key with another type, which is yet to be put aside
                return {str(error): 1}
            return {name: length for name, length in lengths.items() if length and name != "dlq"}

        await eventually(left, within=within, every=0.1, of="a drained stack", until=lambda found: not found)

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of one query on this stack's database; the tables are scheduler.jobs, .attempts, .workers."""
        with psycopg.connect(self.database_url, autocommit=True, connect_timeout=5) as connection:
            return connection.execute(query.encode(), parameters or None).fetchall()

    def unfinished(self) -> int:
        """How many jobs are not final."""
        return int(self.rows("SELECT count(*) FROM scheduler.jobs WHERE finished_at IS NULL")[0][0])

    def redis(self) -> redis.Redis:
        """A client of its Redis; close it."""
        return redis.Redis.from_url(self.redis_url, socket_timeout=5)

    def redis_lengths(self) -> dict[str, int]:
        """Entries on the stream and its lanes, pending ones, ids in the retry ZSET, dead letters."""
        with self.redis() as client:
            lanes: Any = client.smembers(f"{{{self.stream}}}:lanes")
            keys = [self.stream.encode(), *(f"{{{self.stream}}}:lane:".encode() + lane for lane in lanes)]
            groups: Any = [group for key in keys if client.exists(key) for group in client.xinfo_groups(key)]
            return {
                "stream": sum(int(client.xlen(key)) for key in keys),
                "pending": sum(int(group["pending"]) for group in groups),
                "retry": int(client.zcard(f"{{{self.stream}}}:retry")),
                "dlq": int(client.xlen(f"{self.stream}:dlq")),
            }

    def log(self) -> str:
        """What all processes wrote."""
        return "\n".join(f"-- {path.stem}\n{path.read_text()}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """End every process, with what its handlers started, and delete this stack's keys in Redis."""
        self.crew.end()
        with self.redis() as client:
            for key in client.scan_iter(f"*{self.stream}*", count=1_000):
                client.delete(key)


async def run_through_crash(
    stack: Stack, point: str, type: str, payload: dict[str, Any], *, within: float = 30.0, **options: Any
) -> dict[str, Any]:
    """Run a job whose worker is killed at `point`, one of HANDLER_POINTS; another worker does the rest.

    Returns the job as `Client.get` does, once nothing is left that could run it again. Leases last 2 s here, unless
    `stack.settings` says otherwise; `options` are those of `Client.submit`.
    """
    lease = stack.environment().get("SCHEDULER_LEASE_SECONDS", 2)
    if not stack.url:
        await stack.api()
    doomed = await stack.worker(crash_points=f"{point}:kill", lease_seconds=lease)
    async with stack.client() as client:
        job = await client.submit(type, payload, **options)
        await eventually(lambda: doomed.poll() is not None, within=within, of=f"the death of a worker at {point}")
        await stack.worker(lease_seconds=lease)
        await stack.drained(within)
        return await client.get(job["id"])


def _check(child: Child) -> None:
    """Raises SchedulerError with the end of its log when it has ended."""
    try:
        child.check()
    except ChildFailed as error:
        raise SchedulerError(str(error)) from error


def _field(name: str) -> str:
    if (folded := name.lower()) in Settings.model_fields:
        return folded
    hint = nearest(name, Settings.model_fields)
    raise ConfigurationError(f"{name!r} is not a setting" + (f"; did you mean {hint!r}?" if hint else ""))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
