"""Makes Redis agree with PostgreSQL again: publishes due jobs that no stream holds, and keeps the DLQ stream exact.

A job is overlooked when it is PENDING although everything published since it fell due has been delivered. How long
the oldest undelivered entry has been queued comes from Redis and is subtracted on PostgreSQL's clock, so the two
clocks never meet, and a long backlog is not published twice. Whoever gets the turn works; the turn is a key that
expires by itself.
"""

from __future__ import annotations

import time

from scheduler.facts.facts import DLQ_RECONCILED, RECONCILED, tell
from scheduler.jobs.job import id_bytes
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

BATCH = 1_000
PERIOD_SECONDS = 0.2
DLQ_PERIOD_SECONDS, SECOND_LOOK_SECONDS = 2.0, 0.5


class Reconciler(Service):
    """One look for all workers every 0.2 s; the DLQ every 2 s."""

    name = "reconciler"

    def __init__(self, store: Store, stream: Stream) -> None:
        super().__init__()
        self._store, self._stream = store, stream
        self._dlq_at = 0.0
        self._dlq_differs = False

    async def tick(self) -> float:
        await self._stream.ensure_group()
        if not await self._stream.take_turn(PERIOD_SECONDS * 0.9):
            return PERIOD_SECONDS
        if time.monotonic() >= self._dlq_at:
            await self._reconcile_dlq()
            self._dlq_at = time.monotonic() + (SECOND_LOOK_SECONDS if self._dlq_differs else DLQ_PERIOD_SECONDS)
        found = await self._reconcile_jobs()
        return 0.0 if found == BATCH else PERIOD_SECONDS

    async def _reconcile_jobs(self) -> int:
        queued_ms = await self._stream.queued_ms()
        found = await self._store.overlooked(queued_ms / 1000, BATCH)
        due = [job.id for job in found if job.due_ms is None]
        await self._stream.publish(due)
        await self._stream.schedule({job.id: job.due_ms for job in found if job.due_ms is not None})
        tell(RECONCILED, due)
        return len(found)

    async def _reconcile_dlq(self) -> None:
        """Compare sizes; compare ids only when they differ twice in a row, as a letter may just be on its way."""
        letters, entries = await self._store.dead_count(), (await self._stream.lengths()).dlq
        differed, self._dlq_differs = self._dlq_differs, letters != entries
        if not (differed and self._dlq_differs):
            return
        # Redis first: an entry whose row is gone by the time PostgreSQL is asked is stale for good.
        on_stream = {id_bytes(text.decode()) for text in await self._stream.dead_ids()}
        recorded = {letter.id: letter for letter in await self._store.dead_letters()}
        missing = [letter for job_id, letter in recorded.items() if job_id not in on_stream]
        stale = [job_id for job_id in on_stream if job_id and job_id not in recorded]
        await self._stream.dead_letter(missing)
        await self._stream.exhume(stale)
        self._dlq_differs = False
        tell(DLQ_RECONCILED, added=len(missing), removed=len(stale))
