"""Renews this worker's lease from a thread with an event loop and a connection of its own.

A handler that blocks the worker's event loop for a while therefore costs the worker nothing; only a call that keeps the
interpreter lock for a whole lease does. A worker that does no work any more is not renewed, but ended: see `watch`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import HEARTBEAT_FAILED, HEARTBEAT_MISSED, LEASE_LAPSED, tally, tell
from scheduler.jobs.job import id_text
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store
from scheduler.worker.watch import end_process

BEATS_A_LEASE = 5


class Heartbeat:
    """`on_cancelled` hears the ids of cancelled jobs, `on_lapse` that the lease had run out before it was renewed, or
    that a beat went unanswered, and with it what it may have told; both are called in the heartbeat's thread, and so
    is `before_beat`, which ends the process when it should hold no lease any more.
    """

    def __init__(
        self,
        database_url: str,
        worker: bytes,
        *,
        name: str,
        lease_seconds: float,
        types: Sequence[str],
        on_cancelled: Callable[[list[bytes]], None],
        on_lapse: Callable[[], None],
    ) -> None:
        self.worker, self.worker_text = worker, id_text(worker)
        self._url, self._name, self._lease, self._types = database_url, name, lease_seconds, tuple(types)
        self._on_cancelled, self._on_lapse = on_cancelled, on_lapse
        self.before_beat: Callable[[], None] = lambda: None
        self._steady_since: float | None = None
        self._renewed_at = 0.0
        self._missed = False
        self._loop, self._held = asyncio.get_running_loop(), asyncio.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def period_seconds(self) -> float:
        """From one beat to the next."""
        return self._lease / BEATS_A_LEASE

    @property
    def steady_seconds(self) -> float:
        """For how long the lease has been renewed without a gap; 0 when it is not held now."""
        now = time.monotonic()
        if self._steady_since is None or now - self._renewed_at > self._lease:
            return 0.0
        return now - self._steady_since

    def start(self) -> None:
        """Begin to beat, in a thread of its own."""
        self._thread.start()

    async def registered(self, stop: asyncio.Event) -> bool:
        """Wait for the first lease; False when `stop` is set before it is held."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._held, stop)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return self._held.is_set()

    async def stop(self) -> None:
        """Beat no more; the lease runs out by itself."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            asyncio.run(self._beat())
        finally:
            if not self._stopping.is_set():  # whoever works without a lease runs what others run too
                end_process("the heartbeat has ended")

    async def _beat(self) -> None:
        postgres = Postgres(self._url, size=1, deadline_seconds=self._lease / 3, name="scheduler-heartbeat")
        store = Store(postgres)
        period = self.period_seconds
        while not self._stopping.is_set():
            began = time.monotonic()
            if self._steady_since is not None:
                self.before_beat()
            try:
                await self._renew(store)
            except StoreUnavailable as error:
                self._missed = True
                tell(HEARTBEAT_MISSED, reason=error)
            except Exception as error:
                tell(HEARTBEAT_FAILED, trace=error)
            wait = min(period, 0.25) if self._steady_since is None else period
            await asyncio.to_thread(self._stopping.wait, max(0.01, began + wait - time.monotonic()))
        await postgres.close()

    async def _renew(self, store: Store) -> None:
        asked = time.monotonic()
        beat = await store.heartbeat(
            self.worker,
            name=self._name,
            lease_seconds=self._lease,
            types=self._types,
            counters=json.dumps(dict(tally)),
        )
        first = self._steady_since is None  # also when the lease is there: the reply to the beat that took it was lost
        if first or not beat.unbroken:
            self._steady_since = asked
        if first:
            self._loop.call_soon_threadsafe(self._held.set)
        elif self._missed or not beat.unbroken:
            if not beat.unbroken:
                tell(LEASE_LAPSED, worker=self.worker_text)
            self._on_lapse()
        self._missed = False
        self._renewed_at = asked
        if beat.cancelled:
            self._on_cancelled(beat.cancelled)
