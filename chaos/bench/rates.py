"""What a build of the queue does: jobs per second out of a prefilled queue, and from the first request to the last end.

Seen from outside only, so that any build can be measured by any harness: jobs go in by HTTP, the record tells when the
first was started and the last had ended.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import msgspec
import psycopg

from chaos.errors import StackFailed
from chaos.rack.servers import Servers
from chaos.rack.stack import Shape, Stack
from chaos.record.aim import API, worker
from chaos.record.plan import Plan, Settings
from chaos.record.runs import Folder

BATCH = 500  # jobs a request; not measured
SENDERS = 4  # requests at a time; not measured
PAYLOAD = {"to": "someone@example.com", "subject": "hello", "body": "x" * 120}
DEADLINE_SECONDS, LOOK_SECONDS = 300.0, 0.2


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

    @staticmethod
    def _folder() -> TemporaryDirectory[str]:
        return TemporaryDirectory(prefix="chaos-bench-", ignore_cleanup_errors=True)

    def _stack(self, path: Path, *, workers: int) -> Stack:
        folder = Folder(path)
        folder.logs.mkdir()
        variables = {} if self.tree is None else {"PYTHONPATH": str(self.tree.absolute())}
        shape = Shape(proxied=False, witnessed=False, variables=variables)
        return Stack(Plan("bench", 0, Settings(workers=workers)), folder, self.servers, shape)


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
            httpx.AsyncClient(base_url=stack.api_url, timeout=30, trust_env=False) as http,
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


def _row(connection: psycopg.Connection[tuple[float, ...]], query: str) -> tuple[float, ...]:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row


def payload_text() -> str:
    """The payload of every job, as JSON."""
    return msgspec.json.encode(PAYLOAD).decode()
