"""Reads deliveries, claims their jobs, and hands them to the slots.

    stream → read → claim (one fenced statement a batch) → slots → outcomes → settle (a batch) → ack

A job is *in hand* from its delivery to the acknowledgement that follows its settling. What is handed over but not in
hand is a ghost: `own_pending` finds it. See docs/protocol.md for why no step may be swapped.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

from scheduler.errors import StoreUnavailable, ValueRefused
from scheduler.facts.facts import CLAIM_REFUSED, UNCLAIMED, UNHANDLED, tell
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.service import Service
from scheduler.settings import Settings
from scheduler.storage.store import Store
from scheduler.storage.stream import Delivery, Stream
from scheduler.worker.hands import MAX_BATCH, Hands
from scheduler.worker.slots import Slots
from scheduler.worker.suspects import Suspects

PACE_SECONDS = 0.002
SWEEP_SECONDS = 2.0
SHARE_SECONDS = 0.03
INSIST_SECONDS = 1.0


class Reader(Service):
    """Reads deliveries, claims their jobs, and hands them to the slots. `types` are those that this worker can run."""

    name = "reader"

    def __init__(
        self,
        worker: bytes,
        store: Store,
        stream: Stream,
        hands: Hands,
        slots: Slots,
        types: Sequence[str],
        settings: Settings,
    ) -> None:
        super().__init__()
        self._worker, self._consumer = worker, id_text(worker)
        self._store, self._stream, self._hands, self._slots = store, stream, hands, slots
        self._types, self._patience = types, settings.unhandled_seconds
        stream.types = frozenset(types)
        self._unclaimed: list[Delivery] = []
        self._claim_most = MAX_BATCH
        self._suspects = Suspects(hands, self._put, settings.lease_seconds)
        self._long_held: set[bytes] = set()  # entries that were held at the last sweep
        self._sweep_at = self._read_at = 0.0
        self._left_at = 0.0  # since when the share is used up, yet entries wait and slots are free
        self._insist_until = 0.0
        self._fleet_known = False
        self.waits = False  # for a delivery: then it may be cancelled at once
        self.quiet = asyncio.Event()

    async def tick(self) -> float:
        if self._unclaimed:
            await self._claim()
        try:
            if time.monotonic() >= self._sweep_at:
                await self._sweep()
            await self._share_queue()
            if (room := self._hands.room()) <= 0:
                await self._hands.change(0.05)
                return 0.0
            await self._read(room)
        except StoreUnavailable:
            self._sweep_at = 0.0
            raise
        await self._claim()
        return 0.0

    async def _read(self, room: int) -> None:
        """Take what is this worker's share, and what the others leave; wait for more only while a slot is free."""
        if self._slots.running and (early := self._read_at + PACE_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(early)
        self._read_at = now = time.monotonic()
        insists = now < self._insist_until or 0 < self._left_at <= now - SHARE_SECONDS
        share = await self._stream.take(self._consumer, room, max(0, self._hands.free) if insists else 0)
        await self._take(share.deliveries)
        if share.deliveries:
            self._insist_until = now + INSIST_SECONDS if self._left_at and insists else self._insist_until
            self._left_at = 0.0
        elif share.waiting:
            self._left_at = self._left_at or now
            await self._hands.change(SHARE_SECONDS)
        elif self._hands.free <= 0:
            await self._hands.change(0.05)
        elif first := await self._wait():
            self._left_at = 0.0
            await self._take(first)
            if room > len(first):
                await self._take((await self._stream.take(self._consumer, room - len(first))).deliveries)

    async def _wait(self) -> list[Delivery]:
        """The next delivery. Nothing is lost when this is cut short: see `give_back`."""
        self.waits = True
        try:
            return await self._stream.read(
                self._consumer, 1, SWEEP_SECONDS / 2 if self._hands.entries else SWEEP_SECONDS
            )
        finally:
            self.waits = False

    async def _share_queue(self) -> None:
        """Give back what waits for a slot here while it could have one elsewhere."""
        if (late := self._hands.overdue()) and len(await self._stream.consumers()) > 1:
            for _ in range(min(late, len(self._hands.queue))):
                self._hands.finished(Outcome.release(self._hands.queue.popleft()))

    async def _sweep(self) -> None:
        """Take up what was handed to this consumer and never arrived, or was adopted; tend the lanes."""
        await self._let_go()
        await self._tend_lanes()
        pending = await self._stream.own_pending(self._consumer, 2 * MAX_BATCH + self._hands.concurrency)
        await self._take([d for d in pending if d.entry not in self._hands.held])
        self._sweep_at = time.monotonic() + SWEEP_SECONDS

    async def _let_go(self) -> None:
        """Acknowledge the entries of jobs that run for long: the lease covers them, and the stream can be trimmed."""
        hands, unclaimed = self._hands, {delivery.job_id for delivery in self._unclaimed}
        long = {j: entry for j, entry in hands.entries.items() if entry in self._long_held and j not in unclaimed}
        await self._stream.ack(list(long.values()))
        hands.held.difference_update(long.values())
        hands.entries.update((job_id, b"") for job_id in long if job_id in hands.entries)
        self._long_held = set(hands.held)

    async def _tend_lanes(self) -> None:
        """Learn which lanes there are. Where there is one, and at the start: have one for each type that some lack.

        When that fails the main stream is read all the same; the reconciler says which key is of no use.
        """
        try:
            await self._stream.open_lanes()
            if self._stream.lanes or not self._fleet_known:
                partial = [type.name for type in await self._store.fleet() if type.is_partial]
                self._fleet_known = True
                if {*partial} != {*self._stream.lanes}:
                    await self._stream.open_lanes(partial)
        except StoreUnavailable:
            self._fleet_known = False

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
            try:
                jobs = await self._claim_some(deliveries)
            except ValueRefused as error:
                if len(deliveries) == 1:
                    tell(CLAIM_REFUSED, deliveries, reason=error)
                    await self._drop(deliveries)
                continue
            won = {job.id for job in jobs}
            lost = [d for d in deliveries if d.job_id not in won] if len(jobs) < len(deliveries) else []
            self._unclaimed[: len(deliveries)] = lost
            if suspects := self._suspects.among(jobs):
                self._put([job for job in jobs if job not in suspects])
                await self._suspects.run(suspects, self.quiet)
            else:
                self._put(jobs)
            if lost:
                await self._turn_away(lost)

    def _put(self, jobs: Sequence[ClaimedJob]) -> None:
        self._hands.queued += len(jobs)
        self._slots.put(jobs)

    async def _claim_some(self, deliveries: list[Delivery]) -> list[ClaimedJob]:
        """After an error half as many are claimed: large payloads may be what took too long, or one is refused."""
        try:
            jobs = await self._store.claim(self._worker, [d.job_id for d in deliveries], self._types)
        except (StoreUnavailable, ValueRefused):
            self._claim_most = max(1, len(deliveries) // 2)
            raise
        self._claim_most = min(MAX_BATCH, self._claim_most * 2)
        return jobs

    # -- what was not claimed

    async def _turn_away(self, deliveries: list[Delivery]) -> None:
        """Send on what another worker can run, bury what nobody can; drop the rest."""
        misfits = {
            misfit.id: misfit
            for misfit in await self._store.misfits([d.job_id for d in deliveries], self._types, self._patience)
        }
        if hopeless := [misfit.id for misfit in misfits.values() if misfit.is_hopeless]:
            await self._bury(hopeless)
            deliveries = [d for d in deliveries if d.job_id not in hopeless]
        lanes: dict[str, list[Delivery]] = defaultdict(list)
        for each in deliveries:
            if (misfit := misfits.get(each.job_id)) and misfit.is_listed:
                lanes[misfit.type].append(each)
        for type, own in lanes.items():
            await self._stream.forward(type, own)
            self._forget(own)
        refused = [misfit for misfit in misfits.values() if not misfit.is_listed and not misfit.is_hopeless]
        tell(UNHANDLED, refused, types=sorted({misfit.type for misfit in refused}))
        await self._drop([d for d in deliveries if d.job_id in self._hands.entries])

    async def _bury(self, job_ids: list[bytes]) -> None:
        """Claim jobs in spite of their type, to fail them: for so long no worker could run them."""
        jobs = await self._store.claim(self._worker, job_ids)
        claimed = {job.id for job in jobs}
        self._unclaimed = [d for d in self._unclaimed if d.job_id not in claimed]
        for job in jobs:
            lacking = f"no worker has a handler for type {job.type!r}"
            error = f"{lacking}: none registered it within {self._patience:g} s of its due time and its first refusal"
            self._hands.finished(Outcome.fail(job, error))

    async def _drop(self, deliveries: list[Delivery]) -> None:
        """Acknowledge deliveries whose job is finished, another's, or not due. The record knows; nothing is lost."""
        tell(UNCLAIMED, deliveries)
        self._forget(deliveries)
        await self._stream.ack([d.entry for d in deliveries])

    def _forget(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            del self._hands.entries[delivery.job_id]
            self._hands.held.discard(delivery.entry)
        self._unclaimed = [d for d in self._unclaimed if d.job_id in self._hands.entries]

    async def give_back(self) -> None:
        """While draining: what was delivered but not claimed goes back to the stream for others, known to us or not."""
        pending = await self._stream.own_pending(self._consumer, 2 * MAX_BATCH + self._hands.concurrency)
        await self._take([d for d in pending if d.entry not in self._hands.held])
        if deliveries := self._unclaimed:
            await self._stream.publish([d.job_id for d in deliveries])
            await self._drop(deliveries)
