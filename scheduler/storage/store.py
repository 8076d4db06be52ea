"""PostgreSQL: the record. Each method is one named statement of queries/, and so one transaction."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from scheduler.facts.facts import CLAIMED, GIVEN_BACK, INSERTED, INSERTING, OVERLOOKED, RESCUING, SETTLED, tell
from scheduler.jobs.job import ClaimedJob, NewJob, Outcome
from scheduler.jobs.lifecycle import RULES
from scheduler.storage.postgres import Connection, Id, Ids, Postgres, Row

_HERE = Path(__file__).parent
QUERIES: dict[str, str] = {
    name: text.strip()
    for path in sorted((_HERE / "queries").glob("*.sql"))
    for name, text in re.findall(
        r"^-- ([a-z_]+): [^\n]*\n(.*?)(?=^-- [a-z_]+: |\Z)", path.read_text(), re.MULTILINE | re.DOTALL
    )
}
MAX_ROWS_A_STATEMENT = 500


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that exists already, found by its id or idempotency key."""

    id: bytes
    key: str | None
    fingerprint: bytes | None
    status: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What a batch of outcomes led to."""

    waiting: list[tuple[bytes, float]]
    lost: list[Outcome]


@dataclass(frozen=True, slots=True)
class Released:
    """A job given back or buried; `status` says which."""

    id: bytes
    status: str
    error: str | None
    type: str


@dataclass(frozen=True, slots=True)
class Worker:
    id: bytes
    name: str
    types: tuple[str, ...]
    counters: bytes
    age_seconds: float


class Store:
    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres

    async def _rows(self, query: str, /, **parameters: Any) -> list[Row]:
        return await self.postgres.fetch(QUERIES[query], parameters)

    async def close(self) -> None:
        await self.postgres.close()

    async def clock_ms(self) -> float:
        return float((await self._rows("clock"))[0][0])

    # -- submitting

    async def insert(self, jobs: Sequence[NewJob]) -> int:
        """Accept jobs; those whose id or key exists are skipped. Returns how many rows were new."""
        tell(INSERTING, jobs)
        inserted = await self.postgres.change(QUERIES["insert"], _columns(jobs))
        tell(INSERTED, jobs)
        return inserted

    async def insert_whole(self, jobs: Sequence[NewJob]) -> list[Accepted] | None:
        """Accept all jobs and return None; or, when an id or key exists already, accept none and return what exists."""
        if not jobs:
            return None
        tell(INSERTING, jobs)
        async with self.postgres.use() as connection:
            inserted = 0
            async with connection.transaction():
                inserted = (await connection.execute(QUERIES["insert"], _columns(jobs), binary=True)).rowcount
                if inserted < len(jobs):
                    raise psycopg.Rollback
            tell(INSERTED, jobs)
            if inserted == len(jobs):
                return None
            # Looked up after the rollback: our own rows, which it took back, must not be among what exists.
            keys = [job.idempotency_key for job in jobs if job.idempotency_key]
            return await _accepted(connection, [job.id for job in jobs], keys)

    async def accepted(self, job_ids: Sequence[bytes], keys: Sequence[str]) -> list[Accepted]:
        async with self.postgres.use() as connection:
            return await _accepted(connection, job_ids, keys)

    # -- working

    async def claim(self, worker: bytes, job_ids: Sequence[bytes]) -> list[ClaimedJob]:
        rows = await self._rows("claim", worker=Id(worker), ids=Ids(job_ids))
        jobs = [ClaimedJob(*row) for row in rows]
        tell(CLAIMED, jobs)
        return jobs

    async def complete(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Settle plain completions. Returns those that came too late."""
        by_fence: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            by_fence[outcome.job.fence].append(outcome)
        lost: list[Outcome] = []
        for fence, batch in by_fence.items():
            ids = Ids(outcome.job.id for outcome in batch)
            changed = await self.postgres.change(QUERIES["complete"], {"ids": ids, "fence": fence})
            if changed < len(batch):
                lost += await self._too_late(batch)
        tell(SETTLED, outcomes)
        return lost

    async def settle(self, outcomes: Sequence[Outcome]) -> Settled:
        """Settle outcomes of any kind but `postpone`. `waiting` holds (id, due in epoch ms) of those to run again."""
        rows = await self._rows(
            "settle",
            ids=Ids(o.job.id for o in outcomes),
            fences=[o.job.fence for o in outcomes],
            statuses=[RULES[o.transition].target.value for o in outcomes],
            refunds=[-(RULES[o.transition].attempt or 0) for o in outcomes],
            delays=[o.delay_seconds or 0.0 for o in outcomes],
            results=[o.result for o in outcomes],
            errors=[o.error for o in outcomes],
        )
        tell(SETTLED, outcomes)
        due: dict[bytes, float] = {row[0]: row[1] for row in rows}
        missing = [o for o in outcomes if o.job.id not in due]
        waiting = [(o.job.id, due[o.job.id]) for o in outcomes if o.delay_seconds is not None and o.job.id in due]
        return Settled(waiting, await self._too_late(missing) if missing else [])

    async def postpone(self, jobs: Sequence[ClaimedJob], unhandled_seconds: float) -> list[tuple[Released, float]]:
        """Give back jobs of an unknown type. Returns what became of each, and when (epoch ms) it may be tried again."""
        error = "no worker has a handler for type {!r}: none took the job within {:g} s of its due time"
        rows = await self._rows(
            "postpone",
            ids=Ids(job.id for job in jobs),
            fences=[job.fence for job in jobs],
            errors=[error.format(job.type, unhandled_seconds) for job in jobs],
            unhandled=unhandled_seconds,
        )
        return [(Released(*row[:4]), float(row[4])) for row in rows]

    async def _too_late(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Of outcomes that changed no row, those that came too late; the others were settled by a lost reply."""
        rows = await self._rows("settled_as", ids=Ids(o.job.id for o in outcomes))
        now = {row[0]: row[1:] for row in rows}
        return [o for o in outcomes if now.get(o.job.id) != (o.job.fence, RULES[o.transition].target.value, o.error)]

    # -- living and dying

    async def heartbeat(
        self, worker: bytes, *, name: str, lease_seconds: float, types: Sequence[str], counters: str
    ) -> tuple[bool, list[bytes]]:
        """Renew the lease. Returns whether it had not run out, and the jobs cancelled since the last call."""
        rows = await self._rows(
            "heartbeat", id=Id(worker), name=name, lease=lease_seconds, types=list(types), counters=counters
        )
        return (bool(rows[0][0]), list(rows[0][1])) if rows else (False, [])

    async def not_held(self, worker: bytes, job_ids: Sequence[bytes]) -> list[bytes]:
        return [row[0] for row in await self._rows("not_held", ids=Ids(job_ids), worker=Id(worker))]

    async def deregister(self, worker: bytes) -> None:
        await self._rows("deregister", id=Id(worker))

    async def workers(self) -> list[Worker]:
        return [Worker(r[0], r[1], tuple(r[2]), r[3], r[4]) for r in await self._rows("workers")]

    async def any_dead(self) -> bool:
        return bool((await self._rows("any_dead"))[0][0])

    async def rescue(self) -> list[Released]:
        tell(RESCUING)
        rescued = [Released(*row) for row in await self._rows("rescue")]
        tell(GIVEN_BACK, rescued)
        return rescued

    async def overlooked(self, queued_for_seconds: float, limit: int) -> tuple[list[bytes], list[tuple[bytes, float]]]:
        """Jobs that Redis should hold and may not: those due now, and (id, due in epoch ms) of those due later."""
        rows = await self._rows("overlooked", queued_for=queued_for_seconds, limit=limit)
        tell(OVERLOOKED, [row[0] for row in rows])
        return [i for i, due in rows if due is None], [(i, due) for i, due in rows if due is not None]

    async def prune(self, before: bytes, retention_seconds: float, limit: int) -> int:
        parameters = {"before": Id(before), "retention": retention_seconds, "limit": limit}
        return await self.postgres.change(QUERIES["prune"], parameters)

    # -- looking

    async def job(self, job_id: bytes) -> tuple[Row, list[Row]] | None:
        """The job's row and the rows of its attempts that did not complete."""
        rows = await self._rows("job", id=Id(job_id))
        return (rows[0], await self._rows("attempts", id=Id(job_id))) if rows else None

    async def finished(self, job_ids: Sequence[bytes]) -> list[bytes]:
        return [row[0] for row in await self._rows("finished", ids=Ids(job_ids))]

    async def page(self, status: str | None, type: str | None, before: bytes | None, limit: int) -> list[Row]:
        return await self._rows("list", status=status, type=type, before=Id(before) if before else None, limit=limit)

    async def dead_page(self, type: str | None, before: bytes | None, limit: int) -> list[Row]:
        return await self._rows("list_dead", type=type, before=Id(before) if before else None, limit=limit)

    async def backlog(self, limit: int) -> int:
        return int((await self._rows("backlog", limit=limit))[0][0])

    async def live_counts(self, limit: int) -> tuple[int, int, int, float]:
        """Unfinished jobs that are due, wait for their time, and run; the age in seconds of the oldest due one."""
        due, later, running, age = (await self._rows("live_counts", limit=limit))[0]
        return due, later, running, age or 0.0

    # -- deciding

    async def cancel(self, job_id: bytes) -> bool:
        return bool(await self._rows("cancel", id=Id(job_id)))

    async def dead_letters(self) -> list[tuple[bytes, str, str]]:
        return [(row[0], row[1], row[2]) for row in await self._rows("dead_ids")]

    async def dead_count(self) -> int:
        return int((await self._rows("dead_count"))[0][0])

    async def match_dead(
        self,
        ids: Sequence[bytes] | None,
        type: str | None,
        error: str | None,
        older: float | None,
        limit: int,
    ) -> list[bytes]:
        chosen = None if ids is None else Ids(ids)
        rows = await self._rows("match_dead", ids=chosen, type=type, error=error, older=older, limit=limit)
        return [row[0] for row in rows]

    async def redrive(self, ids: Sequence[bytes], interval_seconds: float) -> list[bytes]:
        return [row[0] for row in await self._rows("redrive", ids=Ids(ids), interval=interval_seconds)]

    async def purge(self, ids: Sequence[bytes]) -> list[bytes]:
        return [row[0] for row in await self._rows("purge", ids=Ids(ids))]


async def _accepted(connection: Connection, job_ids: Sequence[bytes], keys: Sequence[str]) -> list[Accepted]:
    parameters = {"ids": Ids(job_ids), "keys": list(keys)}
    cursor = await connection.execute(QUERIES["accepted"], parameters, binary=True)
    return [Accepted(*row) for row in await cursor.fetchall()]


def _columns(jobs: Sequence[NewJob]) -> dict[str, Any]:
    return {
        "ids": Ids(job.id for job in jobs),
        "types": [job.type for job in jobs],
        "payloads": [job.payload for job in jobs],
        "max_attempts": [job.max_attempts for job in jobs],
        "timeouts": [job.timeout_seconds for job in jobs],
        "delays": [job.delay_seconds or 0.0 for job in jobs],
        "run_ats": [job.run_at for job in jobs],
        "keys": [job.idempotency_key for job in jobs],
        "fingerprints": [job.fingerprint for job in jobs],
    }
