"""Accepts jobs: group commit and idempotency; then has published what was committed.

Concurrent submissions share one insert, with no timer: while one statement runs, the next batch gathers. A 202 follows
the commit. A statement whose reply is lost is repeated with the same ids, which the insert skips if they are there.
A key that an open transaction is submitting makes the insert wait, by its own lock_timeout for a moment only.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scheduler.errors import BacklogFull, KeyReused, Locked, StoreUnavailable, ValueRefused
from scheduler.facts.facts import REFUSED, REPEATED, SUBMITTED, tell
from scheduler.jobs.job import NewJob, id_text
from scheduler.service import Service, pause
from scheduler.storage.rows import Accepted
from scheduler.storage.store import MAX_ROWS_A_STATEMENT, Store
from scheduler.submission.backlog import Backlog
from scheduler.submission.publisher import Publisher
from scheduler.submission.submission import require_same

MAX_GATHERED = 20_000
MAX_GATHERED_BYTES = 128 << 20
MAX_BYTES_A_STATEMENT = 8 << 20
PACE_SECONDS = 0.002
PATIENCE_SECONDS = 5.0
# Who waits for somebody's transaction to end waits this long, and keeps so many connections at most from all others.
LOCKED_SECONDS, ALONE = 2.0, 3


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


class Lane(Service):
    """Gathers while one statement runs, has the next batch committed as soon as it has ended."""

    def __init__(self, name: str, commit: Callable[[list[Request]], Awaitable[None]]) -> None:
        super().__init__()
        self.name, self._commit = name, commit
        self._gathered: deque[Request] = deque()
        self._rows = self._bytes = 0
        self._arrived = asyncio.Event()
        self._flushed_at = 0.0

    def put(self, request: Request) -> None:
        """Let it gather. Raises BacklogFull."""
        rows, size = self._rows + len(request.jobs), self._bytes + request.size
        if self._rows and (rows > MAX_GATHERED or size > MAX_GATHERED_BYTES):
            tell(REFUSED, request.jobs)
            raise BacklogFull(self._rows, MAX_GATHERED)
        self._gathered.append(request)
        self._rows, self._bytes = rows, size
        self._arrived.set()

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
            if not isinstance(error, StoreUnavailable | ValueRefused):
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


class Intake:
    """Two lanes, as a key may have to wait for somebody's transaction; what one request alone spoils goes alone."""

    def __init__(self, store: Store, publisher: Publisher, backlog: Backlog) -> None:
        self._store, self._publisher, self._backlog = store, publisher, backlog
        self.lanes = Lane("intake", self._commit), Lane("intake-keyed", self._commit)
        self._alone_slots = asyncio.Semaphore(ALONE)

    async def submit(self, jobs: Sequence[NewJob]) -> list[Receipt]:
        """Accept all of `jobs` or none. Raises BacklogFull, KeyReused, StoreUnavailable, ValueRefused."""
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
        loop = asyncio.get_running_loop()
        size = sum(len(job.payload) for job in jobs)
        request = Request(jobs, loop.create_future(), loop.time() + PATIENCE_SECONDS, size)
        is_keyed = any(job.idempotency_key for job in jobs)
        if is_keyed and len(jobs) > 1:
            return await self._alone(request)
        self.lanes[is_keyed].put(request)
        try:
            return await request.done
        except (Locked, ValueRefused):
            return await self._alone(request)

    async def _alone(self, request: Request) -> list[Receipt]:
        """In statements of its own, whole or not at all. Its key may be in a transaction that is still open."""
        clock = asyncio.get_running_loop().time
        until = clock() + LOCKED_SECONDS
        while True:
            try:
                async with self._alone_slots:
                    new, existing = await self._insert(request.jobs, request.until, whole=True)
                return self._receipts(request, new, existing)
            except Locked as error:
                if clock() >= until:
                    reason = "its idempotency key is being submitted by a transaction that is still open"
                    raise Locked(error.store, reason) from error
            await asyncio.sleep(0.1)

    async def _commit(self, batch: list[Request]) -> None:
        """Insert the jobs of all these requests in one statement; look up only what it skipped."""
        jobs = [job for request in batch for job in request.jobs]
        new, existing = await self._insert(jobs, max(request.until for request in batch))
        for request in batch:
            if request.done.done():
                continue
            try:
                request.done.set_result(self._receipts(request, new, existing))
            except KeyReused as error:
                request.done.set_exception(error)

    def _receipts(self, request: Request, new: set[bytes], existing: dict[str, Accepted]) -> list[Receipt]:
        """Raises KeyReused."""
        receipts = [_receipt(job, new, existing) for job in request.jobs]
        tell(REPEATED, sum(receipt.is_repeat for receipt in receipts))
        return receipts

    async def _insert(
        self, jobs: Sequence[NewJob], until: float, *, whole: bool = False
    ) -> tuple[set[bytes], dict[str, Accepted]]:
        """The ids that are in the table by our doing, and what other jobs hold the keys of the rest.

        With `whole`, one transaction, rolled back if any key is taken, and repeated without what exists.
        """
        # Unique keys are locked in one order by every process, or two of them would deadlock.
        left = sorted(jobs, key=lambda job: job.idempotency_key or "")
        own: set[bytes] = set()
        existing: dict[str, Accepted] = {}
        loop, insert = asyncio.get_running_loop(), self._store.insert_whole if whole else self._store.insert
        while left:
            error = StoreUnavailable("PostgreSQL", "an idempotency key was taken and freed again and again")
            try:
                if await insert(left) == len(left):
                    break
                keys = [job.idempotency_key for job in left if job.idempotency_key]
                found = await self._store.accepted([job.id for job in left], keys)
                own |= {row.id for row in found} & {job.id for job in left}
                existing |= {row.key: row for row in found if row.key}
                if whole:
                    _ = [_receipt(job, own, existing) for job in left if job.idempotency_key in existing]
                left = [job for job in left if job.id not in own and job.idempotency_key not in existing]
            except Locked:
                raise
            except StoreUnavailable as unavailable:
                error = unavailable
            if left and loop.time() >= until:
                raise error
            await asyncio.sleep(0.05 if left else 0)
        new = own | {job.id for job in left}
        tell(SUBMITTED, new)
        self._publisher.put([job.id for job in jobs if job.id in new and not job.is_delayed])
        return new, existing


def _receipt(job: NewJob, new: set[bytes], existing: dict[str, Accepted]) -> Receipt:
    if job.id in new:
        return Receipt(job.id, "PENDING", is_repeat=False)
    assert job.idempotency_key is not None
    row = existing[job.idempotency_key]
    require_same(job, id_text(row.id), row.fingerprint)
    return Receipt(row.id, row.status, is_repeat=True)
