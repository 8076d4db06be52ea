"""Accepts jobs: group commit and idempotency; then has published what was committed.

Concurrent submissions share one insert, with no timer: while one statement runs, the next batch gathers. A 202 follows
the commit. A statement whose reply is lost is repeated with the same ids, which the insert skips if they are there.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.errors import BacklogFull, KeyReused, StoreUnavailable
from scheduler.facts.facts import REFUSED, REPEATED, SUBMITTED, tell
from scheduler.jobs.job import NewJob, id_text
from scheduler.service import Service, pause
from scheduler.storage.rows import Accepted
from scheduler.storage.store import MAX_ROWS_A_STATEMENT, Store
from scheduler.submission.backlog import Backlog
from scheduler.submission.publisher import Publisher
from scheduler.submission.submission import require_same

MAX_GATHERED = 20_000
MAX_GATHERED_BYTES = 256 << 20
MAX_BYTES_A_STATEMENT = 8 << 20
PACE_SECONDS = 0.002
PATIENCE_SECONDS = 5.0


class Receipt(NamedTuple):
    """What became of one submission: its own job (PENDING), or the job that its key already had."""

    id: bytes
    status: str
    is_repeat: bool


@dataclass(slots=True)
class Request:
    """Jobs that stand or fall together, and the future of their receipts."""

    jobs: Sequence[NewJob]
    done: asyncio.Future[list[Receipt]]
    until: float
    size: int


class Intake(Service):
    """Gathers while one statement runs, commits the next batch as soon as it has ended."""

    name = "intake"

    def __init__(self, store: Store, publisher: Publisher, backlog: Backlog) -> None:
        super().__init__()
        self._store, self._publisher, self._backlog = store, publisher, backlog
        self._gathered: deque[Request] = deque()
        self._rows = self._bytes = 0
        self._arrived = asyncio.Event()
        self._flushed_at = 0.0

    async def submit(self, jobs: Sequence[NewJob]) -> list[Receipt]:
        """Accept all of `jobs` or none. Raises BacklogFull, KeyReused, StoreUnavailable."""
        due = sum(not job.is_delayed for job in jobs)
        await self._backlog.admit(due)
        accepted = 0
        try:
            receipts = await self._accept(jobs)
            accepted = sum(not receipt.is_repeat for receipt in receipts)
            return receipts
        finally:
            self._backlog.settle(due, min(due, accepted))

    async def _accept(self, jobs: Sequence[NewJob]) -> list[Receipt]:
        size = sum(len(job.payload) for job in jobs)
        if self._rows and (self._rows + len(jobs) > MAX_GATHERED or self._bytes + size > MAX_GATHERED_BYTES):
            tell(REFUSED, jobs)
            raise BacklogFull(self._rows, MAX_GATHERED)
        loop = asyncio.get_running_loop()
        request = Request(jobs, loop.create_future(), loop.time() + PATIENCE_SECONDS, size)
        if len(jobs) > 1 and any(job.idempotency_key for job in jobs):
            return await self._submit_keyed_batch(request)
        self._gathered.append(request)
        self._rows += len(jobs)
        self._bytes += size
        self._arrived.set()
        return await request.done

    async def tick(self) -> float:
        if not self._gathered:
            self._arrived.clear()
            await pause(self._arrived, 0.5)
            return 0.0
        if (early := self._flushed_at + PACE_SECONDS - time.monotonic()) > 0:
            await asyncio.sleep(early)
        self._flushed_at = time.monotonic()
        batch = self._gather()
        try:
            await self._commit(batch)
        except Exception as error:
            for request in batch:
                if not request.done.done():
                    request.done.set_exception(error)
            if not isinstance(error, StoreUnavailable):
                raise
        return 0.0

    def _gather(self) -> list[Request]:
        batch: list[Request] = []
        rows = size = 0
        while self._gathered:
            following = self._gathered[0]
            rows, size = rows + len(following.jobs), size + following.size
            if batch and (rows > MAX_ROWS_A_STATEMENT or size > MAX_BYTES_A_STATEMENT):
                break
            batch.append(self._gathered.popleft())
            self._rows -= len(following.jobs)
            self._bytes -= following.size
        return batch

    async def _commit(self, batch: list[Request]) -> None:
        """Insert the jobs of all these requests in one statement; look up only what it skipped."""
        jobs = [job for request in batch for job in request.jobs]
        # Unique keys are locked in one order by every process, or two of them would deadlock.
        jobs.sort(key=lambda job: job.idempotency_key or "")
        new, existing = await self._insert(jobs, max(request.until for request in batch))
        tell(SUBMITTED, new)
        self._publisher.put([job.id for job in jobs if job.id in new and not job.is_delayed])
        for request in batch:
            if request.done.done():
                continue
            try:
                receipts = [_receipt(job, new, existing) for job in request.jobs]
                tell(REPEATED, sum(receipt.is_repeat for receipt in receipts))
                request.done.set_result(receipts)
            except KeyReused as error:
                request.done.set_exception(error)

    async def _insert(self, jobs: list[NewJob], until: float) -> tuple[set[bytes], dict[str, Accepted]]:
        """The ids that are in the table by our doing, and what other jobs hold the keys of the rest."""
        repeated = False
        loop = asyncio.get_running_loop()
        while True:
            try:
                inserted = await self._store.insert(jobs)
                if inserted == len(jobs) and not repeated:
                    return {job.id for job in jobs}, {}
                keys = [job.idempotency_key for job in jobs if job.idempotency_key]
                found = await self._store.accepted([job.id for job in jobs], keys)
                new = {row.id for row in found} & {job.id for job in jobs}
                existing = {row.key: row for row in found if row.key}
                if all(job.id in new or job.idempotency_key in existing for job in jobs):
                    return new, existing
            except StoreUnavailable:
                if loop.time() >= until:
                    raise
            if loop.time() >= until:
                raise StoreUnavailable("PostgreSQL", "an idempotency key was taken and freed again and again")
            repeated = True
            await asyncio.sleep(0.05)

    async def _submit_keyed_batch(self, request: Request) -> list[Receipt]:
        """A batch with keys stands or falls alone: one transaction, rolled back if any key is taken."""
        jobs = sorted(request.jobs, key=lambda job: job.idempotency_key or "")
        existing: dict[str, Accepted] = {}
        own: set[bytes] = set()
        while True:
            fresh = [job for job in jobs if job.id not in own and job.idempotency_key not in existing]
            try:
                inserted = await self._store.insert_whole(fresh)
            except StoreUnavailable:
                if asyncio.get_running_loop().time() >= request.until:
                    raise
                await asyncio.sleep(0.05)
                continue
            if inserted.whole:
                break
            own |= {row.id for row in inserted.existing} & {job.id for job in jobs}
            existing |= {row.key: row for row in inserted.existing if row.key and row.id not in own}
            for job in jobs:
                if job.idempotency_key in existing:
                    _receipt(job, own, existing)
        new = own | {job.id for job in fresh}
        tell(SUBMITTED, fresh)
        self._publisher.put([job.id for job in fresh if not job.is_delayed])
        return [_receipt(job, new, existing) for job in request.jobs]


def _receipt(job: NewJob, new: set[bytes], existing: dict[str, Accepted]) -> Receipt:
    if job.id in new:
        return Receipt(job.id, "PENDING", is_repeat=False)
    assert job.idempotency_key is not None
    row = existing[job.idempotency_key]
    require_same(job, id_text(row.id), row.fingerprint)
    return Receipt(row.id, row.status, is_repeat=True)
