"""Reads deliveries, claims their jobs, and hands them to the slots.

    stream → read → claim (one fenced statement a batch) → slots → outcomes → settle (a batch) → ack

A job is *in hand* from its delivery to the acknowledgement that follows its settling. What is handed over but not in
hand is a ghost: `own_pending` finds it. See docs/protocol.md for why no step may be swapped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import UNCLAIMED, tell
from scheduler.jobs.job import ClaimedJob, id_text
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Delivery, Stream
from scheduler.worker.hands import MAX_BATCH, Hands
from scheduler.worker.slots import Slots
from scheduler.worker.suspects import Suspects

PACE_SECONDS = 0.002
SWEEP_SECONDS = 2.0


class Reader(Service):
    """Reads deliveries, claims their jobs, and hands them to the slots."""

    name = "reader"

    def __init__(self, worker: bytes, store: Store, stream: Stream, hands: Hands, slots: Slots) -> None:
        super().__init__()
        self._worker, self._consumer = worker, id_text(worker)
        self._store, self._stream, self._hands, self._slots = store, stream, hands, slots
        self._unclaimed: list[Delivery] = []
        self._claim_most = MAX_BATCH
        self._suspects = Suspects(hands, slots)
        self._sweep_at = 0.0
        self._read_at = 0.0
        self.quiet = asyncio.Event()

    async def tick(self) -> float:
        if self._unclaimed:
            await self._claim()
        room = self._hands.room()
        if room <= 0:
            await self._hands.change(0.05)
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
        """Put deliveries in hand. What brings a job that is in hand, or none, is acknowledged at once."""
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
            if suspects := self._suspects.among(jobs):
                self._slots.put([job for job in jobs if job not in suspects])
                await self._suspects.run_alone(suspects, self.quiet)
            else:
                self._slots.put(jobs)
            if len(jobs) < len(deliveries):
                won = {job.id for job in jobs}
                await self._drop([d for d in deliveries if d.job_id not in won])

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
        tell(UNCLAIMED, deliveries)
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
