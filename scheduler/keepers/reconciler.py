"""Makes Redis agree with PostgreSQL again: publishes due jobs that no stream holds, and keeps the DLQ stream exact.

A job is overlooked when it is PENDING although everything published since it fell due has been delivered. How long
the oldest undelivered entry has been queued comes from Redis and is subtracted on PostgreSQL's clock, so the two
clocks never meet, and a long backlog is not published twice. Whoever has the turn works, and keeps it while he does;
it is a key that expires by itself. He also has keys mended that others have spoilt; so does everyone whose round fails.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import DLQ_RECONCILED, KEY_UNUSABLE, RECONCILED, tell
from scheduler.jobs.job import id_bytes
from scheduler.service import Service
from scheduler.storage.rows import Due
from scheduler.storage.store import Store
from scheduler.storage.stream import MAX_LETTERS, Stream

BATCH = 5_000
PERIOD_SECONDS = 0.2
IDLE_SECONDS = 0.8
TURN_SECONDS = 1.5
MEND_SECONDS = 5.0
DLQ_PERIOD_SECONDS, SECOND_LOOK_SECONDS, DLQ_IDLE_SECONDS = 4.0, 0.5, 60.0


class Reconciler(Service):
    """One looks for all workers: every 0.2 s while something is found, every 0.8 s else; the DLQ every 4 s."""

    name = "reconciler"

    def __init__(self, store: Store, stream: Stream) -> None:
        super().__init__()
        self._store, self._stream = store, stream
        self._who = os.urandom(8).hex()
        self._wait = PERIOD_SECONDS
        self._dlq_at, self._dlq_wait = 0.0, DLQ_PERIOD_SECONDS
        self._dlq_differs = False
        self._mend_at, self._flawed = 0.0, set[str]()

    async def tick(self) -> float:
        try:
            return await self._reconcile()
        except StoreUnavailable:
            await self._mend()
            raise

    async def _reconcile(self) -> float:
        look = await self._stream.look(self._who, TURN_SECONDS)
        if not look.mine:
            return look.seconds + random.uniform(0.01, 0.1)
        if time.monotonic() >= self._mend_at:
            await self._mend()
        found = await self._store.overlooked(look.seconds, BATCH)
        await self._tell_redis(found)
        if time.monotonic() >= self._dlq_at:
            self._dlq_at = time.monotonic() + await self._reconcile_dlq()
        self._wait = PERIOD_SECONDS if found else min(self._wait * 2, IDLE_SECONDS)
        return 0.0 if len(found) >= BATCH else self._wait

    async def _mend(self) -> None:
        """Have keys put aside that are not what they must be; say once of each what is wrong with it."""
        flaws = await self._stream.flaws(mend=True)
        self._mend_at = time.monotonic() + MEND_SECONDS
        for key in flaws.keys() - self._flawed:
            tell(KEY_UNUSABLE, key=key, reason=flaws[key])
        self._flawed = set(flaws)

    async def _tell_redis(self, found: Sequence[Due]) -> None:
        due = [job.id for job in found if job.due_ms is None]
        await self._stream.publish(due)
        await self._stream.schedule({job.id: job.due_ms for job in found if job.due_ms is not None})
        tell(RECONCILED, due)

    async def _reconcile_dlq(self) -> float:
        """Compare digests, and ids only when those differ twice in a row, as a letter may just be on its way.

        Returns when to look again: later and later while letters come and go all the time and none is amiss.
        """
        shown, recorded = await self._stream.dead_digest(), await self._store.dead_digest(MAX_LETTERS)
        differed, self._dlq_differs = self._dlq_differs, shown != recorded
        if self._dlq_differs and not differed:
            return SECOND_LOOK_SECONDS
        for_nothing = self._dlq_differs and not await self._repair_dlq(shown)
        self._dlq_wait = min(self._dlq_wait * 2, DLQ_IDLE_SECONDS) if for_nothing else DLQ_PERIOD_SECONDS
        self._dlq_differs = False
        return self._dlq_wait

    async def _repair_dlq(self, shown: str) -> bool:
        if not shown:
            await self._stream.dead_clear()
        # Redis first: an entry whose row is gone by the time PostgreSQL is asked is stale for good.
        on_stream = {id_bytes(text.decode(errors="replace")) for text in await self._stream.dead_ids()}
        recorded = {letter.id: letter for letter in await self._store.dead_letters(MAX_LETTERS)}
        missing = [letter for job_id, letter in recorded.items() if job_id not in on_stream]
        stale = [job_id for job_id in on_stream if job_id and job_id not in recorded]
        await self._stream.exhume(stale)
        await self._stream.dead_letter(missing)
        if missing or stale:
            tell(DLQ_RECONCILED, added=len(missing), removed=len(stale))
        elif shown == await self._stream.dead_digest():  # nothing came or went, and yet it differs: its sum is wrong
            await self._stream.dead_clear()
        return bool(missing or stale or not shown)
