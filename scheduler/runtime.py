"""The composition root: builds each process from its parts, starts them together, and stops them in order."""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import scheduler.samples  # noqa: F401  (registers the built-in types)
from scheduler.errors import ConfigurationError, StoreUnavailable
from scheduler.executor import Executor
from scheduler.jobs.job import IdSequence, Outcome
from scheduler.jobs.registry import handlers
from scheduler.services.heartbeat import Heartbeat
from scheduler.services.promoter import Promoter
from scheduler.services.pruner import Pruner
from scheduler.services.reconciler import Reconciler
from scheduler.services.rescuer import Rescuer
from scheduler.services.service import Service, pause
from scheduler.services.worker import Hands, Reader, Settler, Slots
from scheduler.settings import Settings
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store, migrate
from scheduler.storage.stream import Stream
from scheduler.telemetry import emit

WORKER_CONNECTIONS = 6
API_CONNECTIONS = 12
LAST_FLUSH_SECONDS = 5.0


def load_jobs(settings: Settings) -> None:
    """Import the user's handler modules. Raises ConfigurationError naming the module that cannot be imported."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    for name in settings.jobs:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigurationError(f"SCHEDULER_JOBS={name!r} cannot be imported: {error}") from error


def tune_collector() -> None:
    """Freeze what start-up built and collect rarely: the cyclic collector is a large part of a busy loop's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def open_stores(settings: Settings, name: str, connections: int) -> AsyncIterator[tuple[Store, Stream]]:
    database_url, redis_url = settings.require_stores()
    deadline = settings.store_deadline_seconds
    postgres = Postgres(database_url, size=connections, deadline_seconds=deadline, name=f"scheduler-{name}")
    stream = Stream(
        redis_url,
        stream=settings.stream,
        group=settings.group,
        deadline_seconds=deadline,
        name=f"scheduler-{name}",
    )
    try:
        yield Store(postgres), stream
    finally:
        await postgres.close()
        await stream.close()


async def wait_for_stores(store: Store, stream: Stream, stop: asyncio.Event) -> None:
    """Wait until both stores answer, saying what is waited for; then bring the schema up to date."""
    wait = 0.1
    while not stop.is_set():
        try:
            for name in await migrate(store.postgres):
                emit("migrated", migration=name)
            await stream.ensure_group()
            break
        except StoreUnavailable as error:
            emit("waiting_for_store", logging.WARNING, reason=error, retry_seconds=round(wait, 1))
            await pause(stop, wait)
            wait = min(wait * 2, 2.0)
    policy = await stream.eviction_policy()
    if policy not in (None, "noeviction"):
        emit(
            "redis_may_evict",
            logging.WARNING,
            maxmemory_policy=policy,
            remedy="set maxmemory-policy noeviction: evicted entries delay jobs until they are reconciled",
        )


async def run_worker(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT, then drain it."""
    stop = asyncio.Event()
    worker = IdSequence().take(1, time.time_ns(), os.urandom(8))[0]
    with stop_on_signals(stop):
        async with open_stores(settings, "worker", WORKER_CONNECTIONS) as (store, stream):
            await wait_for_stores(store, stream, stop)
            if not stop.is_set():
                await Drainable(settings, worker, store, stream).run(stop)


class Drainable:
    """A worker that stops in order: quiet (read no more), drain (finish what runs), release (hand back the rest)."""

    def __init__(self, settings: Settings, worker: bytes, store: Store, stream: Stream) -> None:
        self._settings, self._worker, self._store, self._stream = settings, worker, store, stream
        self.hands = Hands(settings.concurrency)
        self.executor = Executor(settings.retry, threads=min(settings.concurrency, 500), rng=random.Random())
        self.slots = Slots(self.executor, handlers, self.hands)
        self.reader = Reader(worker, store, stream, self.hands, self.slots)
        self.settler = Settler(store, stream, self.hands, self.slots, settings.unhandled_seconds)
        self._loop = asyncio.get_running_loop()
        self.heartbeat = Heartbeat(
            settings.require_stores()[0],
            worker,
            name=f"{socket.gethostname()}:{os.getpid()}",
            lease_seconds=settings.lease_seconds,
            types=sorted(handlers),
            on_cancelled=lambda ids: self._call(self._mark_cancelled, ids),
            on_lapse=lambda: self._call(self._check_claims),
        )
        self._checks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        settings = self._settings
        finish = asyncio.Event()
        keepers: list[Service] = [
            self.settler,
            Promoter(self._store, self._stream),
            Reconciler(self._store, self._stream),
            Rescuer(self._store, self._stream, self.heartbeat, settings.lease_seconds),
            Pruner(self._store, self._stream, settings.retention_seconds),
        ]
        self.heartbeat.start()
        try:
            if not await self.heartbeat.registered(stop):
                return
            emit("worker_started", worker=self.heartbeat.worker_text, concurrency=settings.concurrency)
            tune_collector()
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(service.run(finish), name=service.name) for service in keepers]
                slots = [group.create_task(self.slots.run()) for _ in range(settings.concurrency)]
                reading = group.create_task(self.reader.run(stop), name="reader")
                await stop.wait()
                await self._drain(reading, slots)
                finish.set()
                await asyncio.wait(loops)
            await self._leave()
        finally:
            self.executor.close()
            await self.heartbeat.stop()
            emit("worker_stopped", worker=self.heartbeat.worker_text)

    async def _drain(self, reading: asyncio.Task[None], slots: list[asyncio.Task[None]]) -> None:
        hands, until = self.hands, time.monotonic() + self._settings.grace_seconds
        emit("worker_draining", running=len(self.executor.running), queued=len(hands.queue))
        self.reader.quiet.set()
        self._release_queued()
        await asyncio.wait([reading], timeout=LAST_FLUSH_SECONDS)
        reading.cancel()
        self._release_queued()
        while self.executor.running and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for context in self.executor.running.values():
            context.cancelled = True
        for slot in slots:
            slot.cancel()
        await asyncio.wait(slots, timeout=LAST_FLUSH_SECONDS)
        last = time.monotonic() + LAST_FLUSH_SECONDS
        while (hands.unsettled or self.slots.unhandled) and time.monotonic() < last:
            await asyncio.sleep(0.01)

    def _release_queued(self) -> None:
        while self.hands.queue:
            self.hands.finished(Outcome.release(self.hands.queue.popleft()))

    async def _leave(self) -> None:
        """Give back what was delivered, end the lease. Out of reach of the stores, the lease runs out by itself."""
        try:
            await self.reader.give_back()
            await self.heartbeat.stop()
            await self._store.deregister(self._worker)
            await self._stream.forget(self.heartbeat.worker_text)
        except StoreUnavailable as error:
            emit("left_unregistered", logging.WARNING, reason=error)

    def _call(self, function: object, *arguments: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]

    def _mark_cancelled(self, job_ids: list[bytes]) -> None:
        for job_id in job_ids:
            if context := self.executor.running.get(job_id):
                context.cancelled = True

    def _check_claims(self) -> None:
        """The lease had lapsed: tell the handlers whose job another worker may have by now."""
        task = self._loop.create_task(self._tell_overtaken())
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _tell_overtaken(self) -> None:
        try:
            self._mark_cancelled(await self._store.not_held(self._worker, list(self.executor.running)))
        except StoreUnavailable as error:
            emit("claims_unchecked", logging.WARNING, reason=error)


async def run_api(settings: Settings) -> None:
    """Serve HTTP until SIGTERM or SIGINT; answers in flight are finished, what is gathered is committed."""
    from scheduler.api.app import build_app
    from scheduler.api.parts import build_parts
    from scheduler.api.server import Server

    stop, finish = asyncio.Event(), asyncio.Event()
    with stop_on_signals(stop):
        async with open_stores(settings, "api", API_CONNECTIONS) as (store, stream):
            parts = build_parts(settings, store, stream, handlers)
            server = Server(build_app(settings, parts), settings)
            tune_collector()
            async with asyncio.TaskGroup() as group:
                ready = group.create_task(wait_for_stores(store, stream, stop))
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
    if not settings.database_url:
        raise ConfigurationError("SCHEDULER_DATABASE_URL is not set; migrate needs a database to work on")
    postgres = Postgres(settings.database_url, size=1, deadline_seconds=60, name="scheduler-migrate")
    try:
        return await migrate(postgres)
    finally:
        await postgres.close()
