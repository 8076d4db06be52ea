"""The life of a worker: it takes a lease, works, and stops in order."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Sequence

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
from scheduler.worker.watch import Watch, end_process

Keepers = Sequence[Service]
LAST_FLUSH_SECONDS = 5.0


class Worker:
    """Stops in order: quiet (read no more), drain (finish what runs), release (hand back the rest)."""

    def __init__(
        self, settings: Settings, worker: bytes, store: Store, stream: Stream, keepers: Callable[[Heartbeat], Keepers]
    ) -> None:
        self._settings, self._worker, self._store, self._stream = settings, worker, store, stream
        self._loop, self._stop, self._finish = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self.hands = Hands(settings.concurrency)
        self.executor = Executor(
            settings.retry, concurrency=settings.concurrency, rng=random.Random(), on_worn=self._replace
        )
        self.slots = Slots(self.executor, handlers, self.hands, store.payload)
        self.reader = Reader(worker, store, stream, self.hands, self.slots, sorted(handlers), settings)
        self.settler = Settler(store, stream, self.hands)
        self.heartbeat = Heartbeat(
            settings.require_stores()[0],
            worker,
            name=f"{socket.gethostname()}:{os.getpid()}",
            lease_seconds=settings.lease_seconds,
            types=sorted(handlers),
            on_cancelled=lambda ids: self._call(self._mark_cancelled, ids),
            on_lapse=lambda: self._call(self._check_claims),
        )
        self._keepers = keepers(self.heartbeat)
        watch = Watch(
            (self.reader, self.settler, *self._keepers),
            self.slots,
            beat_seconds=self.heartbeat.period_seconds,
            warn_seconds=settings.lease_seconds,
            stall_seconds=settings.stall_seconds,
        )
        self.heartbeat.before_beat = watch.check
        self._checks: set[asyncio.Task[None]] = set()
        self.is_worn = False

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set or too many bodies are lost, then drain."""
        self._stop = stop
        self.heartbeat.start()
        try:
            if not await self.heartbeat.registered(stop):
                return
            worker, concurrency = self.heartbeat.worker_text, self._settings.concurrency
            tell(facts.WORKER_STARTED, worker=worker, concurrency=concurrency)
            reading = self._start(self.reader, stop)
            loops = [self._start(service, self._finish) for service in (self.settler, *self._keepers)]
            await stop.wait()
            await self._drain(reading)
            self._finish.set()
            await asyncio.wait(loops)
            await self._leave()
        finally:
            self.executor.bodies.close()
            await self.heartbeat.stop()
            tell(facts.WORKER_STOPPED, worker=self.heartbeat.worker_text)

    def _start(self, service: Service, until: asyncio.Event) -> asyncio.Task[None]:
        """Have a loop run. One that ends before its time would leave a worker that claims and does not work."""

        def ended(task: asyncio.Task[None]) -> None:
            if not until.is_set():
                error = None if task.cancelled() else task.exception()
                end_process(f"the loop {service.name} has ended" + (f" by {error!r}" if error else ""))

        task = self._loop.create_task(service.run(until), name=service.name)
        task.add_done_callback(ended)
        return task

    def _replace(self) -> None:
        """Too many bodies go on after their time-out: stop, so that a new process takes this one's place."""
        if not self.is_worn:
            self.is_worn = True
            tell(facts.WORKER_WORN, lost=len(self.executor.bodies.lost))
            self._stop.set()

    @property
    def left(self) -> int:
        """How many bodies still run; nothing but the end of the process ends them."""
        return len(self.slots.running) + len(self.executor.bodies.lost)

    async def _drain(self, reading: asyncio.Task[None]) -> None:
        hands, until = self.hands, time.monotonic() + self._settings.grace_seconds
        tell(facts.WORKER_DRAINING, running=len(self.executor.running), queued=len(hands.queue))
        self.reader.quiet.set()
        hands.changed.set()
        self._release_queued()
        if self.reader.waits:
            reading.cancel()
        await asyncio.wait([reading], timeout=LAST_FLUSH_SECONDS)
        reading.cancel()
        self._release_queued()
        while self.executor.running and time.monotonic() < until:
            await hands.change(until - time.monotonic())
        if cut := self.slots.cancel():
            await asyncio.wait(cut, timeout=LAST_FLUSH_SECONDS)
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
        """Tell the bodies of these jobs; those that wait in hand are not run."""
        self.hands.cancelled.update(job_id for job_id in job_ids if job_id in self.hands.entries)
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
