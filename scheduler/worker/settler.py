"""Writes outcomes to PostgreSQL, then tells Redis; never the other way round."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

from scheduler.errors import StoreUnavailable, ValueRefused
from scheduler.facts import facts
from scheduler.facts.facts import tell
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.jobs.lifecycle import Transition
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.hands import MAX_BATCH, Hands
from scheduler.worker.slots import Slots

MAX_BATCH_BYTES = 4 << 20
PACE_SECONDS = 0.002

_FACTS = {
    Transition.COMPLETE: facts.COMPLETED,
    Transition.RETRY: facts.RETRIED,
    Transition.FAIL: facts.FAILED,
    Transition.SNOOZE: facts.SNOOZED,
    Transition.RELEASE: facts.RELEASED,
}


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
            await hands.change(0.5)
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
        ends = Counter(outcome.transition for outcome in batch if id(outcome) not in late)
        for transition, amount in ends.items():
            tell(_FACTS[transition], amount)
        tell(facts.LEASE_LOST, lost)
        for outcome in batch:
            if outcome.error:
                job, error = outcome.job, outcome.error[:200]
                fact = facts.JOB_FAILED if outcome.transition is Transition.FAIL else facts.JOB_RETRIED
                tell(fact, job_id=id_text(job.id), type=job.type, attempt=job.attempt, error=error)

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
            tell(facts.INDEX_NOT_TOLD, batch, reason=error)
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
        tell(facts.UNHANDLED, jobs, types=sorted({job.type for job in jobs}))
        entries = [entry for job in jobs if (entry := self._hands.entries.pop(job.id, None))]
        try:
            await self._stream.schedule((job.id, due) for job, due in released if job.status == "PENDING")
            await self._stream.dead_letter([(j.id, j.type, j.error or "") for j, _ in released if j.status == "FAILED"])
            await self._stream.ack(entries)
        finally:
            self._hands.held.difference_update(entries)
            self._hands.changed.set()


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
