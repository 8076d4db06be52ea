"""The worker's two loops: read-and-claim, and settle. Between them a fixed set of slots runs the handlers.

    stream → read → claim (one fenced statement a batch) → slots → outcomes → settle (a batch) → ack

A job is *in hand* from its delivery to the acknowledgement that follows its settling. What is handed over but not in
hand is a ghost: `own_pending` finds it. See docs/protocol.md for why no step may be swapped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from scheduler.errors import StoreUnavailable, ValueRefused
from scheduler.executor import Executor
from scheduler.jobs.job import SUSPECT_AFTER_CRASHES, ClaimedJob, Outcome, id_text
from scheduler.jobs.lifecycle import Transition
from scheduler.jobs.registry import Registry
from scheduler.services.service import Service, pause
from scheduler.storage.store import Store
from scheduler.storage.stream import Delivery, Stream
from scheduler.telemetry import count, emit, logger

MAX_BATCH = 512
MAX_BATCH_BYTES = 4 << 20
PACE_SECONDS = 0.002
PREFETCH_SECONDS = 0.05
SWEEP_SECONDS = 2.0
SUSPECT_WAIT_SECONDS = 0.2
YIELD_AFTER = 128

_COUNTED = {
    Transition.COMPLETE: "completed",
    Transition.RETRY: "retried",
    Transition.FAIL: "failed",
    Transition.SNOOZE: "snoozed",
    Transition.RELEASE: "released",
}


class Hands:
    """What this worker holds, bounded by `concurrency` plus what it finishes in PREFETCH_SECONDS."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.entries: dict[bytes, bytes] = {}  # job id -> stream entry to acknowledge
        self.held: set[bytes] = set()  # entries that some job in hand or an ack under way accounts for
        self.queue: deque[ClaimedJob] = deque()  # claimed, no slot yet
        self.unsettled: deque[Outcome] = deque()
        self.changed = asyncio.Event()
        self._rate, self._finished, self._since = 0.0, 0, time.monotonic()

    def room(self) -> int:
        """How many more jobs may be claimed now."""
        ahead = min(MAX_BATCH, self._rate * PREFETCH_SECONDS)
        started = len(self.entries) - len(self.unsettled)
        if len(self.unsettled) >= 2 * MAX_BATCH:
            return 0
        return min(MAX_BATCH, int(self.concurrency + ahead) - started)

    def finished(self, outcome: Outcome) -> None:
        self.unsettled.append(outcome)
        self._finished += 1
        self.changed.set()

    def measure(self) -> None:
        now = time.monotonic()
        if (elapsed := now - self._since) >= 0.1:
            self._rate = 0.5 * self._rate + 0.5 * self._finished / elapsed
            self._finished, self._since = 0, now


class Reader(Service):
    """Reads deliveries, claims their jobs, and hands them to the slots."""

    name = "reader"

    def __init__(self, worker: bytes, store: Store, stream: Stream, hands: Hands, slots: Slots) -> None:
        super().__init__()
        self._worker, self._consumer = worker, id_text(worker)
        self._store, self._stream, self._hands, self._slots = store, stream, hands, slots
        self._unclaimed: list[Delivery] = []
        self._claim_most = MAX_BATCH
        self._suspect = b""
        self._sweep_at = 0.0
        self._read_at = 0.0
        self.quiet = asyncio.Event()

    async def tick(self) -> float:
        if self._unclaimed:
            await self._claim()
        room = self._hands.room()
        if room <= 0:
            self._hands.changed.clear()
            await pause(self._hands.changed, 0.05)
            return 0.0
        try:
            await self._read(room)
        except StoreUnavailable:
            self._sweep_at = 0.0
            raise
        await self._claim()
        return 0.0

    async def _read(self, room: int) -> None:
        self._hands.measure()
        if time.monotonic() >= self._sweep_at:
            await self._sweep()
        if self._slots.busy and (early := self._read_at + PACE_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(early)
        self._read_at = time.monotonic()
        await self._take(await self._stream.read(self._consumer, room))

    async def _sweep(self) -> None:
        """Take up what was handed to this consumer and never arrived, or was adopted from a dead one."""
        pending = await self._stream.own_pending(self._consumer, 2 * MAX_BATCH + self._hands.concurrency)
        await self._take([d for d in pending if d.entry not in self._hands.held])
        self._sweep_at = time.monotonic() + SWEEP_SECONDS

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries in hand. A second delivery of a job that is in hand has done its duty, as has an empty one."""
        hands = self._hands
        spare = []
        for delivery in deliveries:
            if not delivery.job_id or delivery.job_id in hands.entries:
                spare.append(delivery.entry)
                continue
            hands.entries[delivery.job_id] = delivery.entry
            hands.held.add(delivery.entry)
            self._unclaimed.append(delivery)
        if spare:
            await self._stream.ack(spare)

    async def _claim(self) -> None:
        """Claim what is in hand and unclaimed. After an error it is still that: a claim may be repeated."""
        while deliveries := self._unclaimed[: self._claim_most]:
            if self.quiet.is_set():
                await self.give_back()
                return
            jobs = await self._claim_some(deliveries)
            del self._unclaimed[: len(deliveries)]
            count("claimed", len(jobs))
            suspects = [job for job in jobs if job.crashes >= SUSPECT_AFTER_CRASHES]
            self._slots.put([job for job in jobs if job not in suspects] if suspects else jobs)
            if suspects:
                await self._single_out(suspects)
            if len(jobs) < len(deliveries):
                won = {job.id for job in jobs}
                await self._drop([d for d in deliveries if d.job_id not in won])

    async def _single_out(self, suspects: list[ClaimedJob]) -> None:
        """Run one suspect at a time, and only when the others are given back: its crash must not be theirs."""
        hands = self._hands
        chosen = [] if self._suspect in hands.entries else suspects[:1]
        put_off = suspects[len(chosen) :]
        for job in put_off:
            hands.finished(Outcome.release(job, SUSPECT_WAIT_SECONDS))
        while not self.quiet.is_set() and any(job.id in hands.entries for job in put_off):
            await pause(self.quiet, 0.005)
        if chosen:
            self._suspect = chosen[0].id
            self._slots.put(chosen)

    async def _claim_some(self, deliveries: list[Delivery]) -> list[ClaimedJob]:
        """After an error half as many are claimed: large payloads may be what took longer than the deadline."""
        try:
            jobs = await self._store.claim(self._worker, [d.job_id for d in deliveries])
        except StoreUnavailable:
            self._claim_most = max(1, len(deliveries) // 2)
            raise
        self._claim_most = min(MAX_BATCH, self._claim_most * 2)
        return jobs

    async def _drop(self, deliveries: list[Delivery]) -> None:
        """Acknowledge deliveries whose job is finished, another's, or not due. The record knows; nothing is lost."""
        count("unclaimed", len(deliveries))
        for delivery in deliveries:
            del self._hands.entries[delivery.job_id]
            self._hands.held.discard(delivery.entry)
        await self._stream.ack([d.entry for d in deliveries])

    async def give_back(self) -> None:
        """While draining: what was delivered but not claimed goes back to the stream for others."""
        if deliveries := self._unclaimed:
            self._unclaimed = []
            await self._stream.publish([d.job_id for d in deliveries])
            await self._drop(deliveries)


class Slots:
    """`concurrency` long-lived tasks that pull claimed jobs; a handler that never waits costs no task switch."""

    def __init__(self, executor: Executor, registry: Registry, hands: Hands) -> None:
        self._executor, self._registry, self._hands = executor, registry, hands
        self._idle: deque[asyncio.Event] = deque()
        self._waking = 0
        self._unhandled: deque[ClaimedJob] = deque()
        self.released = False

    @property
    def busy(self) -> bool:
        return len(self._idle) < self._hands.concurrency

    @property
    def unhandled(self) -> deque[ClaimedJob]:
        return self._unhandled

    def put(self, jobs: Sequence[ClaimedJob]) -> None:
        known = self._registry
        for job in jobs:
            if job.type in known:
                self._hands.queue.append(job)
            else:
                self._unhandled.append(job)
                self._hands.changed.set()
        self._wake()

    def _wake(self) -> None:
        if self._hands.queue and self._idle and not self._waking:
            self._waking += 1
            self._idle.popleft().set()

    async def run(self) -> None:
        """One slot. Cancelled while it runs a job, it releases that job unburned."""
        hands, wake = self._hands, asyncio.Event()
        while True:
            wake.clear()
            self._idle.append(wake)
            self._wake()
            await wake.wait()
            self._waking -= 1
            ran = 0
            while hands.queue:
                job = hands.queue.popleft()
                self._wake()
                hands.finished(await self._outcome(job))
                ran += 1
                if ran % YIELD_AFTER == 0:
                    await asyncio.sleep(0)

    async def _outcome(self, job: ClaimedJob) -> Outcome:
        handler = self._registry.get(job.type)
        assert handler is not None
        try:
            return await self._executor.run(job, handler)
        except asyncio.CancelledError:
            self._hands.finished(Outcome.release(job))
            raise


class Settler(Service):
    """Writes outcomes to PostgreSQL in batches, then tells Redis. One flush at a time: batches grow with load."""

    name = "settler"

    def __init__(self, store: Store, stream: Stream, hands: Hands, slots: Slots, unhandled_seconds: float) -> None:
        super().__init__()
        self._store, self._stream, self._hands, self._slots = store, stream, hands, slots
        self._unhandled_seconds = unhandled_seconds
        self._flushed_at = 0.0

    async def tick(self) -> float:
        hands = self._hands
        if not hands.unsettled and not self._slots.unhandled:
            hands.changed.clear()
            await pause(hands.changed, 0.5)
            return 0.0
        if (early := self._flushed_at + PACE_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(early)
        self._flushed_at = time.monotonic()
        await self.flush()
        return 0.0

    async def flush(self) -> None:
        """Settle one batch. On an error nothing is forgotten: the batch is settled again, fenced as before."""
        hands = self._hands
        if self._slots.unhandled:
            await self._postpone([self._slots.unhandled[i] for i in range(min(MAX_BATCH, len(self._slots.unhandled)))])
        if not (batch := _first(hands.unsettled)):
            return
        plain = [o for o in batch if o.transition is Transition.COMPLETE and o.result is None]
        other = [o for o in batch if o.transition is not Transition.COMPLETE or o.result is not None]
        lost = await self._store.complete(plain) if plain else []
        waiting: list[tuple[bytes, float]] = []
        if other:
            settled_waiting, settled_lost = await self._settle(other)
            waiting, lost = settled_waiting, lost + settled_lost
        for _ in batch:
            hands.unsettled.popleft()
        self._account(batch, lost)
        await self._tell_redis(batch, {o.job.id for o in lost}, waiting)

    async def _settle(self, outcomes: list[Outcome]) -> tuple[list[tuple[bytes, float]], list[Outcome]]:
        """Settle a mixed batch; a value that PostgreSQL refuses fails its own job only."""
        try:
            settled = await self._store.settle(outcomes)
            return settled.waiting, settled.lost
        except ValueRefused as error:
            if len(outcomes) == 1:
                refusal = Outcome.fail(outcomes[0].job, f"its outcome could not be stored: {error}")
                settled = await self._store.settle([refusal])
                await self._stream_dead([refusal])
                return settled.waiting, settled.lost
            half = len(outcomes) // 2
            first, second = await self._settle(outcomes[:half]), await self._settle(outcomes[half:])
            return first[0] + second[0], first[1] + second[1]

    def _account(self, batch: list[Outcome], lost: list[Outcome]) -> None:
        late = {id(o) for o in lost}
        for outcome in batch:
            if id(outcome) not in late:
                count(_COUNTED[outcome.transition])
        if lost:
            count("lease_lost", len(lost))
            emit("lease_lost", logging.WARNING, jobs=len(lost), first=id_text(lost[0].job.id))
        for outcome in batch:
            if outcome.error:
                facts = {
                    "job_id": id_text(outcome.job.id),
                    "type": outcome.job.type,
                    "attempt": outcome.job.attempt,
                }
                level = logging.WARNING if outcome.transition is Transition.FAIL else logging.INFO
                emit(f"job_{_COUNTED[outcome.transition]}", level, **facts, error=outcome.error[:200])

    async def _tell_redis(self, batch: list[Outcome], lost: set[bytes], waiting: list[tuple[bytes, float]]) -> None:
        """Make the index follow the record. When Redis is away the reconciler and the sweep make up for it."""
        entries = [entry for o in batch if (entry := self._hands.entries.pop(o.job.id, None))]
        again = {o.job.id for o in batch if o.transition is Transition.RELEASE and not o.delay_seconds}
        try:
            await self._stream.schedule((i, due) for i, due in waiting if i not in again)
            await self._stream.publish([i for i, _ in waiting if i in again])
            await self._stream_dead([o for o in batch if o.transition is Transition.FAIL and o.job.id not in lost])
            await self._stream.ack(entries)
        except StoreUnavailable as error:
            logger.debug("index_not_told", extra={"facts": {"jobs": len(batch), "reason": error}})
        finally:
            self._hands.held.difference_update(entries)
            self._hands.changed.set()

    async def _stream_dead(self, outcomes: Sequence[Outcome]) -> None:
        if outcomes:
            await self._stream.dead_letter([(o.job.id, o.job.type, o.error or "") for o in outcomes])

    async def _postpone(self, jobs: list[ClaimedJob]) -> None:
        released = await self._store.postpone(jobs, self._unhandled_seconds)
        for _ in jobs:
            self._slots.unhandled.popleft()
        types = sorted({job.type for job in jobs})
        emit("unhandled", logging.WARNING, jobs=len(jobs), types=types)
        entries = [entry for job in jobs if (entry := self._hands.entries.pop(job.id, None))]
        try:
            await self._stream.schedule((job.id, due) for job, due in released if job.status == "PENDING")
            await self._stream.dead_letter([(j.id, j.type, j.error or "") for j, _ in released if j.status == "FAILED"])
            await self._stream.ack(entries)
        finally:
            self._hands.held.difference_update(entries)


def _first(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The first outcomes, at most a batch, in number and in bytes: a statement must fit the deadline."""
    batch: list[Outcome] = []
    size = 0
    for outcome in islice(outcomes, MAX_BATCH):
        size += len(outcome.result or "")
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append(outcome)
    return batch
