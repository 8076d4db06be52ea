"""What a build of the queue does: jobs per second out of a prefilled queue, from the first request to the last end,
back into a Redis that lost them, and out of the table when their retention has passed.

Seen from outside only, so that any build can be measured by any harness: jobs go in by HTTP, the record tells when the
first was started and the last had ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import msgspec
import psycopg
from redis import Redis

from chaos.errors import StackFailed
from chaos.load.workload import JSON
from chaos.rack.servers import Servers
from chaos.rack.stack import Shape, Stack
from chaos.record.aim import API, worker
from chaos.record.plan import Plan, Settings
from chaos.record.runs import Folder

BATCH = 500  # jobs a request; not measured
SENDERS = 4  # requests at a time; not measured
PAYLOAD = {"to": "someone@example.com", "subject": "hello", "body": "x" * 120}
DEADLINE_SECONDS, LOOK_SECONDS, KEEPER_LOOK_SECONDS = 300.0, 0.2, 0.02
Connection = psycopg.Connection[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Build:
    """A source tree of the queue on servers of its own; `tree` None is the one that this harness belongs to."""

    name: str
    servers: Servers
    tree: Path | None = None

    def drain(self, jobs: int) -> float:
        """Jobs per second of one worker, from its first claim to its last commit; the queue was full before."""
        with self._folder() as folder, self._stack(Path(folder), workers=0) as stack:
            _send(stack, jobs)
            stack.stop_process(API)
            stack.start_process(worker(1))
            first, last = _ended(stack)
        return jobs / (last - first)

    def end_to_end(self, jobs: int) -> float:
        """Jobs per second from the first request to the last commit, one worker; all share the machine."""
        with self._folder() as folder, self._stack(Path(folder), workers=1) as stack:
            began = time.time()
            _send(stack, jobs)
            _, last = _ended(stack)
        return jobs / (last - began)

    def reconcile(self, jobs: int) -> float:
        """Jobs per second back on an empty stream, by one worker that has no room to run them."""
        with (
            self._rows(jobs, "PENDING", concurrency=1, grace_seconds=1) as (stack, _),
            Redis.from_url(stack.redis_url, socket_timeout=10, socket_connect_timeout=10) as redis,
        ):
            return _rate(stack, 1, lambda: int(redis.xlen(stack.target.look.stream)), 0, jobs * 95 // 100)

    def prune(self, jobs: int) -> float:
        """Finished jobs per second out of the table, by two workers."""
        with self._rows(jobs, "COMPLETED", retention_seconds=1) as (stack, connection):
            return _rate(stack, 2, lambda: int(_row(connection, stack.target.look.total)[0]), jobs, jobs // 20)

    @contextmanager
    def _rows(self, jobs: int, status: str, **settings: int) -> Iterator[tuple[Stack, Connection]]:
        """A stack without workers, so many jobs in its table, none in Redis."""
        with (
            self._folder() as folder,
            self._stack(Path(folder), workers=0, **settings) as stack,
            psycopg.connect(stack.database_url, autocommit=True, connect_timeout=10) as connection,
        ):
            connection.execute(stack.target.look.fill.encode(), {"jobs": jobs, "status": status})
            yield stack, connection

    @staticmethod
    def _folder() -> TemporaryDirectory[str]:
        return TemporaryDirectory(prefix="chaos-bench-", ignore_cleanup_errors=True)

    def _stack(self, path: Path, *, workers: int, **settings: int) -> Stack:
        folder = Folder(path)
        folder.logs.mkdir()
        variables = {} if self.tree is None else {"PYTHONPATH": str(self.tree.absolute())}
        shape = Shape(proxied=False, witnessed=False, variables=variables)
        plan = Plan("bench", 0, msgspec.structs.replace(Settings(workers=workers), **settings))
        return Stack(plan, folder, self.servers, shape)


def _rate(stack: Stack, workers: int, count: Callable[[], int], begin: int, end: int) -> float:
    """Start workers and watch a count on its way: how much it changes a second, from the last look before it did."""
    for number in range(1, workers + 1):
        stack.start_process(worker(number))
    began = time.monotonic()
    deadline = began + DEADLINE_SECONDS
    while True:
        counted, at = count(), time.monotonic()
        began = at if counted == begin else began
        if (counted - end) * (begin - end) <= 0:
            return abs(counted - begin) / max(at - began, KEEPER_LOOK_SECONDS)
        if at > deadline:
            raise StackFailed(f"a count was still at {counted} after {DEADLINE_SECONDS:g} s")
        stack.check_alive()
        time.sleep(KEEPER_LOOK_SECONDS)


def _send(stack: Stack, jobs: int) -> None:
    """Batches from several connections at once, until all are accepted. Raises StackFailed for one that is not."""
    full, rest = divmod(jobs, BATCH)
    sizes = iter([BATCH] * full + [rest] * bool(rest))

    async def sender(http: httpx.AsyncClient) -> None:
        for size in sizes:
            request = stack.target.submit_batch([("NOOP", PAYLOAD)] * size)
            answer = await http.post(request.path, content=request.content)
            if not answer.is_success:
                raise StackFailed(f"a batch of {size} was answered with {answer.status_code}: {answer.text[:200]}")

    async def send() -> None:
        async with (
            httpx.AsyncClient(base_url=stack.api_url, headers=JSON, timeout=30, trust_env=False) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(SENDERS):
                group.create_task(sender(http))

    asyncio.run(send())


def _ended(stack: Stack) -> tuple[float, float]:
    """When the first job was started and the last one ended (epoch seconds); waits until none is unfinished."""
    look, deadline = stack.target.look, time.monotonic() + DEADLINE_SECONDS
    with psycopg.connect(stack.database_url, autocommit=True, connect_timeout=10) as connection:
        while _row(connection, look.unfinished)[0]:
            stack.check_alive()
            if time.monotonic() > deadline:
                raise StackFailed(f"jobs were still unfinished after {DEADLINE_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
        first, last = _row(connection, look.span)
    return float(first), float(last)


def _row(connection: Connection, query: str) -> tuple[float, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row


def payload_text() -> str:
    """The payload of every job, as JSON."""
    return msgspec.json.encode(PAYLOAD).decode()
