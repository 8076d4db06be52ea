"""The composition root: builds each process from its parts, starts them together, and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import scheduler.samples  # noqa: F401  (registers the built-in types)
from scheduler.errors import SAMPLES, ConfigurationError, StoreUnavailable
from scheduler.facts.facts import LEFT_BODIES, MIGRATED, REDIS_MAY_EVICT, WAITING_FOR_STORE, tell
from scheduler.handlers import open_resources
from scheduler.jobs.job import IdSequence
from scheduler.jobs.registry import handlers
from scheduler.keepers.promoter import Promoter
from scheduler.keepers.pruner import Pruner
from scheduler.keepers.reconciler import Reconciler
from scheduler.keepers.rescuer import Rescuer
from scheduler.service import Service, pause
from scheduler.settings import Settings
from scheduler.storage.postgres import Postgres
from scheduler.storage.schema import bind, migrate
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.heartbeat import Heartbeat
from scheduler.worker.watch import leave_at_once
from scheduler.worker.worker import Worker

Require = Callable[[], Awaitable[None]]
Answer = TypeVar("Answer")

WORKER_CONNECTIONS = 6
# Those of intake and loops, and those of clients who look, cancel and redrive.
API_CONNECTIONS = 8
ASKED_CONNECTIONS = 6
# Of the deadline: the server's word that it gave up comes in time, and the connection is kept.
STATEMENT_SHARE = 0.9


def load_jobs(settings: Settings) -> None:
    """Import the user's handler modules. Raises ConfigurationError naming the module that cannot be imported."""
    if not settings.samples:
        handlers.withdraw(SAMPLES)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    for name in settings.jobs:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(f"SCHEDULER_JOBS={name!r} cannot be imported: {error}") from error


def freeze() -> None:
    """Spare the cyclic collector what start-up built. It runs as often as ever where users' code makes garbage."""
    gc.collect()
    gc.freeze()


def collect_rarely() -> None:
    """For the API, which makes no cycles worth a search: the collector is a large part of a busy loop's time."""
    freeze()
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while the block runs."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def open_stores(
    settings: Settings, name: str, connections: int, asked: int = 0
) -> AsyncIterator[tuple[Store, Stream]]:
    """Both stores while the block runs, nothing connected yet; `asked`: connections for what clients ask."""
    database_url, redis_url = settings.require_stores()
    deadline = settings.store_deadline_seconds
    own = partial(Postgres, database_url, deadline_seconds=deadline, name=f"scheduler-{name}")
    postgres = own(size=connections)
    store = Store(postgres, own(size=asked, statement_seconds=deadline * STATEMENT_SHARE) if asked else postgres)
    stream = Stream(
        redis_url,
        stream=settings.stream,
        group=settings.group,
        deadline_seconds=deadline,
        name=f"scheduler-{name}",
    )
    try:
        yield store, stream
    finally:
        await store.close()
        await stream.close()


async def wait_for_stores(store: Store, stream: Stream, stop: asyncio.Event, *require: Require) -> None:
    """Wait until both stores answer, saying what is waited for; bring the schema up to date; see what is required."""
    wait = 0.1
    while not stop.is_set():
        try:
            for name in await migrate(store.postgres):
                tell(MIGRATED, migration=name)
            await bind(store.postgres, stream.stream)
            await stream.ensure_group()
            for each in require:
                await each()
            break
        except StoreUnavailable as error:
            tell(WAITING_FOR_STORE, reason=error, retry_seconds=round(wait, 1))
            await pause(stop, wait)
            wait = min(wait * 2, 2.0)
    policy = await stream.eviction_policy()
    if policy not in (None, "noeviction"):
        remedy = "set maxmemory-policy noeviction: evicted entries delay jobs until they are reconciled"
        tell(REDIS_MAY_EVICT, maxmemory_policy=policy, remedy=remedy)


async def run_worker(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT, then drain it. Ends the process itself when a body outlives that."""
    stop = asyncio.Event()
    worker = IdSequence().take(1, time.time_ns(), os.urandom(8))[0]
    with stop_on_signals(stop):
        async with open_stores(settings, "worker", WORKER_CONNECTIONS) as (store, stream):
            await wait_for_stores(store, stream, stop)
            if stop.is_set():
                return
            async with open_resources() as resources:
                freeze()
                own = Worker(settings, worker, store, stream, lambda beat: keepers(settings, store, stream, beat))
                own.executor.resources = resources
                await own.run(stop)
    if own.left or own.is_worn:
        tell(LEFT_BODIES, own.left)
        leave_at_once(os.EX_SOFTWARE if own.is_worn else 0)


def keepers(settings: Settings, store: Store, stream: Stream, heartbeat: Heartbeat) -> list[Service]:
    """The loops that run beside a worker's own."""
    return [
        Promoter(store, stream),
        Reconciler(store, stream),
        Rescuer(store, stream, heartbeat, settings.lease_seconds),
        Pruner(store, stream, settings.retention_seconds),
    ]


async def run_api(settings: Settings) -> None:
    """Serve HTTP until SIGTERM or SIGINT; answers in flight are finished, what is gathered is committed."""
    from scheduler.api.app import build_app
    from scheduler.api.parts import build_parts
    from scheduler.api.server import Server

    stop, finish = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop):
        async with open_stores(settings, "api", API_CONNECTIONS, ASKED_CONNECTIONS) as (store, stream):
            parts = build_parts(settings, store, stream, handlers)
            server = Server(build_app(settings, parts), settings)
            collect_rarely()
            async with asyncio.TaskGroup() as group:
                ready = group.create_task(wait_for_stores(store, stream, stop, parts.guard.keys.require))
                loops = [group.create_task(service.run(finish), name=service.name) for service in parts.services]
                serving = group.create_task(server.run_here(), name="http")
                await asyncio.wait([group.create_task(stop.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
                stop.set()
                server.should_exit = True
                await asyncio.wait([serving])
                finish.set()
                await asyncio.wait([*loops, ready])


async def run_migrate(settings: Settings) -> list[str]:
    """Apply pending migrations. Raises StoreUnavailable."""
    return await on_record(settings, lambda store: migrate(store.postgres))


async def on_record(settings: Settings, work: Callable[[Store], Awaitable[Answer]]) -> Answer:
    """Do `work` on the database alone. Raises StoreUnavailable."""
    if not settings.database_url:
        raise ConfigurationError("SCHEDULER_DATABASE_URL is not set; this command needs a database to work on")
    store = Store(Postgres(settings.database_url, size=1, deadline_seconds=60, name="scheduler-command"))
    try:
        return await work(store)
    finally:
        await store.close()
