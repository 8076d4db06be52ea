"""Writes outcomes to PostgreSQL, then tells Redis; never the other way round."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice

from scheduler.errors import StoreUnavailable, ValueRefused
from scheduler.facts import facts
from scheduler.facts.facts import tell
from scheduler.jobs.job import Outcome, id_text
from scheduler.jobs.lifecycle import Transition
from scheduler.service import Service
from scheduler.storage.rows import Letter, Settled
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.hands import MAX_BATCH, Hands

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

    def __init__(self, store: Store, stream: Stream, hands: Hands) -> None:
        super().__init__()
        self._store, self._stream, self._hands = store, stream, hands
        self._flushed_at = 0.0

    async def tick(self) -> float:
        hands = self._hands
        if not hands.unsettled:
            await hands.change(0.5)
            return 0.0
        if (early := self._flushed_at + PACE_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(early)
        self._flushed_at = time.monotonic()
        await self.flush()
        return 0.0

    async def flush(self) -> None:
        """Settle one batch. On an error nothing is forgotten: the batch is settled again, fenced as before."""
        batch = _first(self._hands.unsettled)
        plain = [o for o in batch if o.transition is Transition.COMPLETE and o.result is None]
        other = [o for o in batch if o.transition is not Transition.COMPLETE or o.result is not None]
        settled = await self._store.complete(plain) if plain else Settled()
        if other:
            settled += await self._settle(other)
        for _ in batch:
            self._hands.unsettled.popleft()
        _account(settled, self._hands.cancelled)
        await self._tell_redis(batch, settled)

    async def _settle(self, outcomes: list[Outcome]) -> Settled:
        """Settle a mixed batch; a value that PostgreSQL refuses fails its own job only."""
        try:
            return await self._store.settle(outcomes)
        except ValueRefused as error:
            if len(outcomes) == 1:
                refusal = f"its outcome could not be stored: {error}"
                return await self._store.settle([Outcome.fail(outcomes[0].job, refusal)])
            half = len(outcomes) // 2
            return await self._settle(outcomes[:half]) + await self._settle(outcomes[half:])

    async def _tell_redis(self, batch: list[Outcome], settled: Settled) -> None:
        """Make the index follow the record. When Redis is away the reconciler and the sweep make up for it."""
        entries = [entry for o in batch if (entry := self._hands.entries.pop(o.job.id, None))]
        try:
            await tell_redis(self._stream, settled)
            await self._stream.ack(entries)
        except StoreUnavailable as error:
            tell(facts.INDEX_NOT_TOLD, batch, reason=error)
        finally:
            self._hands.held.difference_update(entries)
            self._hands.cancelled.difference_update([o.job.id for o in batch])
            self._hands.changed.set()


async def tell_redis(stream: Stream, settled: Settled) -> None:
    """Index what has been settled: when it runs again, or that it is a dead letter. Raises StoreUnavailable."""
    later = dict(settled.due_ms)
    at_once = [o.job.id for o in settled.done if not o.delay_seconds and o.job.id in later]
    for job_id in at_once:
        del later[job_id]
    await stream.schedule(later)
    await stream.publish(at_once)
    dead = [o for o in settled.done if o.transition is Transition.FAIL]
    await stream.dead_letter([Letter(o.job.id, o.job.type, o.error or "") for o in dead])


def _account(settled: Settled, cancelled: Collection[bytes]) -> None:
    """Tell what came of a batch. That a cancelled job's outcome changes nothing is no lost lease."""
    for transition, amount in Counter(outcome.transition for outcome in settled.done).items():
        tell(_FACTS[transition], amount)
    tell(facts.LEASE_LOST, [outcome for outcome in settled.lost if outcome.job.id not in cancelled])
    for outcome in (*settled.done, *settled.lost):
        if outcome.error:
            job, error = outcome.job, outcome.error[:200]
            fact = facts.JOB_FAILED if outcome.transition is Transition.FAIL else facts.JOB_RETRIED
            tell(fact, job_id=id_text(job.id), type=job.type, attempt=job.attempt, error=error, trace=outcome.trace)


def _first(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The first outcomes, at most a batch, in number and in bytes: a statement must fit the deadline."""
    batch: list[Outcome] = []
    size = 0
    for outcome in islice(outcomes, MAX_BATCH):
        size += len(outcome.result or "") + len(outcome.trace or "")
        if batch and size > MAX_BATCH_BYTES:
            break
        batch.append(outcome)
    return batch
