"""The life of a worker: it takes a lease, works, and stops in order."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Sequence

from scheduler.errors import StoreUnavailable
from scheduler.facts import facts
from scheduler.facts.facts import tell
from scheduler.jobs.job import Outcome
from scheduler.jobs.registry import handlers
from scheduler.service import Service
from scheduler.settings import Settings
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.executor import Executor
from scheduler.worker.hands import Hands
from scheduler.worker.heartbeat import Heartbeat
from scheduler.worker.reader import Reader
from scheduler.worker.settler import Settler, tell_redis
from scheduler.worker.slots import Slots

LAST_FLUSH_SECONDS = 5.0


class Worker:
    """Stops in order: quiet (read no more), drain (finish what runs), release (hand back the rest)."""

    def __init__(self, settings: Settings, worker: bytes, store: Store, stream: Stream) -> None:
        self._settings, self._worker, self._store, self._stream = settings, worker, store, stream
        self.hands = Hands(settings.concurrency)
        self.executor = Executor(settings.retry, threads=min(settings.concurrency, 500), rng=random.Random())
        self.slots = Slots(self.executor, handlers, self.hands, settings.unhandled_seconds)
        self.reader = Reader(worker, store, stream, self.hands, self.slots)
        self.settler = Settler(store, stream, self.hands)
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

    async def run(self, stop: asyncio.Event, keepers: Sequence[Service]) -> None:
        """Work until `stop` is set, then drain. `keepers` are loops that run beside it."""
        settings = self._settings
        finish = asyncio.Event()
        self.heartbeat.start()
        try:
            if not await self.heartbeat.registered(stop):
                return
            tell(facts.WORKER_STARTED, worker=self.heartbeat.worker_text, concurrency=settings.concurrency)
            async with asyncio.TaskGroup() as group:
                loops = [
                    group.create_task(service.run(finish), name=service.name) for service in (self.settler, *keepers)
                ]
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
            tell(facts.WORKER_STOPPED, worker=self.heartbeat.worker_text)

    async def _drain(self, reading: asyncio.Task[None], slots: list[asyncio.Task[None]]) -> None:
        hands, until = self.hands, time.monotonic() + self._settings.grace_seconds
        tell(facts.WORKER_DRAINING, running=len(self.executor.running), queued=len(hands.queue))
        self.reader.quiet.set()
        hands.changed.set()
        self._release_queued()
        await asyncio.wait([reading], timeout=LAST_FLUSH_SECONDS)
        reading.cancel()
        self._release_queued()
        while self.executor.running and time.monotonic() < until:
            await hands.change(until - time.monotonic())
        for context in self.executor.running.values():
            context.cancelled = True
        for slot in slots:
            slot.cancel()
        await asyncio.wait(slots, timeout=LAST_FLUSH_SECONDS)
        last = time.monotonic() + LAST_FLUSH_SECONDS
        while hands.unsettled and time.monotonic() < last:
            await hands.change(last - time.monotonic())

    def _release_queued(self) -> None:
        while self.hands.queue:
            self.hands.finished(Outcome.release(self.hands.queue.popleft()))

    async def _leave(self) -> None:
        """Give back what was delivered, and what it holds unknowingly; end the lease, or let it run out by itself."""
        try:
            await self.reader.give_back()
            await self.heartbeat.stop()
            if held := await self._store.held_by(self._worker):
                await tell_redis(self._stream, await self._store.settle([Outcome.release(job) for job in held]))
            await self._store.deregister(self._worker)
            await self._stream.forget(self.heartbeat.worker_text)
        except StoreUnavailable as error:
            tell(facts.LEFT_UNREGISTERED, reason=error)

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
            tell(facts.CLAIMS_UNCHECKED, reason=error)
