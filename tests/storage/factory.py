"""Jobs and workers in any state, made by the store's own statements."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from scheduler.jobs.job import ClaimedJob, IdSequence, NewJob, Outcome
from scheduler.storage.postgres import Id, Ids
from scheduler.storage.rows import Settled
from scheduler.storage.store import INLINE_BYTES, Store

_ids = IdSequence()


def new_id() -> bytes:
    return _ids.take(1, time.time_ns(), os.urandom(8))[0]


def new_job(**fields: Any) -> NewJob:
    return NewJob(**{"id": new_id(), "type": "NOOP", "payload": "{}", "max_attempts": 4, **fields})


async def submitted(store: Store, count: int = 1, **fields: Any) -> list[bytes]:
    jobs = [new_job(**fields) for _ in range(count)]
    assert await store.insert(jobs) == count
    return [job.id for job in jobs]


async def live_worker(store: Store, lease_seconds: float = 60.0, types: Sequence[str] = ("NOOP",)) -> bytes:
    worker = new_id()
    await store.heartbeat(worker, name="w", lease_seconds=lease_seconds, types=types, counters="{}")
    return worker


async def expire(store: Store, worker: bytes) -> None:
    """Let the worker's lease have run out a second ago."""
    await alter(store, "workers SET expires_at = now() - interval '1 second' WHERE id", worker)


async def any_dead(store: Store) -> bool:
    """Whether there is a lease that ran out."""
    return any(lease.left_seconds <= 0 for lease in await store.leases())


async def running(store: Store, worker: bytes, **fields: Any) -> ClaimedJob:
    """A job that `worker` has just claimed."""
    [job] = await store.claim(worker, await submitted(store, **fields))
    return job


async def alter(store: Store, change: str, key: bytes) -> None:
    """`UPDATE scheduler.<change> = key`."""
    await store.postgres.fetch(f"UPDATE scheduler.{change} = '{key.hex()}'::uuid")


async def value(store: Store, expression: str, job_id: bytes, table: str = "jobs", key: str = "id") -> Any:
    """One expression over a job's row; a tuple when it names several columns."""
    rows = await store.postgres.fetch(
        f"SELECT {expression} FROM scheduler.{table} WHERE {key} = '{job_id.hex()}'::uuid"
    )
    assert len(rows) == 1, f"{len(rows)} rows"
    return rows[0] if len(rows[0]) > 1 else rows[0][0]


async def dead(store: Store, **fields: Any) -> bytes:
    """A dead letter: a job whose only attempt failed."""
    worker = await live_worker(store)
    job = await running(store, worker, **{"max_attempts": 1, **fields})
    await store.settle([Outcome.fail(job, "because")])
    await store.deregister(worker)
    return job.id


async def rescue(store: Store) -> Settled:
    """As a rescuer does: look, decide, settle, and forget the leases that hold nothing any more."""
    settled = await store.rescue([Outcome.crash(job) for job in await store.orphans(1_000)])
    await store.forget_dead()
    return settled


def claim_of(worker: bytes, *job_ids: bytes) -> dict[str, Any]:
    """The parameters of the statement `claim`."""
    return {"worker": Id(worker), "ids": Ids(job_ids), "types": None, "most_bytes": INLINE_BYTES}
