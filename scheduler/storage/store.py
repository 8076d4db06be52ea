"""PostgreSQL: the record. Each method is one named statement of queries/, and so one transaction.

What clients ask for, however many they are, has connections of its own: no intake and no loop waits behind them.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psycopg
from msgspec import Meta
from psycopg.rows import scalar_row, tuple_row

from scheduler.errors import JobNotFound
from scheduler.facts.facts import CLAIMED, GIVEN_BACK, INSERTED, INSERTING, OVERLOOKED, PRUNED, RESCUING, SETTLED, tell
from scheduler.jobs.job import ClaimedJob, HeldJob, NewJob, Outcome, id_text
from scheduler.jobs.lifecycle import RULES
from scheduler.jobs.view import Attempt, Job, JobRow, JobSummary, shown
from scheduler.storage.postgres import Id, Ids, Postgres
from scheduler.storage.rows import (
    Accepted,
    Beat,
    Due,
    KnownType,
    Lease,
    Letter,
    Live,
    LiveWorker,
    Looked,
    Misfit,
    Settled,
    T,
    each_as,
)

_HERE = Path(__file__).parent
QUERIES: dict[str, str] = {
    name: text.strip()
    for path in sorted((_HERE / "queries").glob("*.sql"))
    for name, text in re.findall(
        r"^-- ([a-z_]+): [^\n]*\n(.*?)(?=^-- [a-z_]+: |\Z)", path.read_text(), re.MULTILINE | re.DOTALL
    )
}
MAX_ROWS_A_STATEMENT = 500
INLINE_BYTES = 64 << 10
# A page by a filter that few jobs meet: so many rows are looked at in one statement, and no more after so long.
LOOK_ROWS = 10_000
LOOK_SECONDS = 0.25
_ASKED = {"job", "attempts", "workers", "live_counts", "dead_count", "cancel", "redrive", "purge", "match_dead"} | {
    *("list", "list_end", "list_dead", "list_dead_end")
}
_FIRST, _BEHIND = Id(bytes(16)), Id(b"\xff" * 16)
_read_counters = msgspec.json.Decoder(dict[str, Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]]).decode
MAX_KEYS, MAX_REFUSALS = 1_000, 100_000
_RULE_COLUMNS = ("target", "attempt", "crashes", "moves_due", "at_once")


class Store:
    """The record. Every method raises StoreUnavailable when PostgreSQL does not answer in time."""

    def __init__(self, postgres: Postgres, asked: Postgres | None = None) -> None:
        self.postgres, self._asked = postgres, asked or postgres

    async def _fetch(self, query: str, parameters: dict[str, Any], each: Any) -> list[Any]:
        postgres = self._asked if query in _ASKED else self.postgres
        return await postgres.fetch(QUERIES[query], parameters, each)

    async def _rows(self, kind: type[T], query: str, /, **parameters: Any) -> list[T]:
        rows: list[T] = await self._fetch(query, parameters, each_as(kind))
        return rows

    async def _values(self, query: str, /, **parameters: Any) -> list[Any]:
        """The one column that a statement answers."""
        return await self._fetch(query, parameters, scalar_row)

    async def _value(self, query: str, /, **parameters: Any) -> Any:
        return (await self._values(query, **parameters))[0]

    async def close(self) -> None:
        """Close all connections."""
        await self.postgres.close()
        await self._asked.close()

    async def clock_ms(self) -> float:
        """PostgreSQL's clock, in epoch milliseconds."""
        return float(await self._value("clock"))

    # -- submitting

    async def insert(self, jobs: Sequence[NewJob]) -> int:
        """Accept jobs; those whose id or key exists are skipped. Returns how many rows were new."""
        tell(INSERTING, jobs)
        inserted = await self.postgres.change(QUERIES["insert"], columns(jobs))
        tell(INSERTED, jobs)
        return inserted

    async def insert_whole(self, jobs: Sequence[NewJob]) -> int:
        """Accept all jobs, or none when an id or key exists already. Returns how many rows were new by themselves."""
        tell(INSERTING, jobs)
        async with self.postgres.use() as connection, connection.transaction():
            inserted = (await connection.execute(QUERIES["insert"], columns(jobs), binary=True)).rowcount
            if inserted < len(jobs):
                raise psycopg.Rollback
        tell(INSERTED, jobs)
        return inserted

    async def accepted(self, job_ids: Sequence[bytes], keys: Sequence[str]) -> list[Accepted]:
        """Which of these ids and keys exist."""
        return await self._rows(Accepted, "accepted", ids=Ids(job_ids), keys=list(keys))

    # -- working

    async def claim(
        self, worker: bytes, job_ids: Sequence[bytes], types: Sequence[str] | None = None
    ) -> list[ClaimedJob]:
        """Those of these jobs that are the worker's now; those that it held already come with a new fence.

        `types`: it claims no others; None: any. Payloads of more than INLINE_BYTES are left for `payload` to fetch.
        """
        own = None if types is None else list(types)
        asked = {"worker": Id(worker), "ids": Ids(job_ids), "types": own, "most_bytes": INLINE_BYTES}
        jobs = await self._rows(ClaimedJob, "claim", **asked)
        tell(CLAIMED, jobs)
        return jobs

    async def payload(self, job_id: bytes) -> bytes:
        """What a claim left behind. Raises JobNotFound."""
        found: list[bytes] = await self._values("payload", id=Id(job_id))
        if not found:
            raise JobNotFound(id_text(job_id))
        return found[0]

    async def misfits(self, job_ids: Sequence[bytes], types: Sequence[str], patience_seconds: float) -> list[Misfit]:
        """Of jobs that were not claimed, those due that a worker of these types cannot run. Notes what nobody can."""
        return await self._rows(Misfit, "misfits", ids=Ids(job_ids), types=list(types), patience=patience_seconds)

    async def complete(self, outcomes: Sequence[Outcome]) -> Settled:
        """Settle completions without a result: one small statement a fence instead of `settle`."""
        by_fence: dict[int, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            by_fence[outcome.job.fence].append(outcome)
        settled = Settled()
        for fence, batch in by_fence.items():
            ids = Ids(outcome.job.id for outcome in batch)
            changed = await self.postgres.change(QUERIES["complete"], {"ids": ids, "fence": fence})
            settled += Settled(batch) if changed == len(batch) else await self._earlier(batch)
        tell(SETTLED, outcomes)
        return settled

    async def settle(self, outcomes: Sequence[Outcome]) -> Settled:
        """Apply outcomes of any kind, each fenced. Raises ValueRefused, for all, when one result cannot be stored."""
        settled = await self._settle(outcomes, of_dead=False)
        tell(SETTLED, outcomes)
        if settled.lost:
            earlier = await self._earlier(settled.lost)
            settled = Settled(settled.done + earlier.done, earlier.lost, settled.due_ms)
        return settled

    async def rescue(self, outcomes: Sequence[Outcome]) -> Settled:
        """Apply outcomes of jobs whose worker died, unless its lease holds again. Lost: settled meanwhile by others."""
        tell(RESCUING, outcomes)
        settled = await self._settle(outcomes, of_dead=True)
        tell(GIVEN_BACK, settled.done)
        return settled

    async def _settle(self, outcomes: Sequence[Outcome], *, of_dead: bool) -> Settled:
        place = {transition: n for n, transition in enumerate(RULES, 1)}
        rows = await self._rows(
            Due,
            "settle",
            **_ends(outcomes),
            **{name: [getattr(rule, name) for rule in RULES.values()] for name in _RULE_COLUMNS},
            rules=[place[o.transition] for o in outcomes],
            delays=[o.delay_seconds for o in outcomes],
            results=[o.result for o in outcomes],
            traces=[o.trace for o in outcomes],
            of_dead=of_dead,
        )
        due = {row.id: row.due_ms for row in rows}
        done = [o for o in outcomes if o.job.id in due]
        lost = [o for o in outcomes if o.job.id not in due] if len(done) < len(outcomes) else []
        return Settled(done, lost, {i: due_ms for i, due_ms in due.items() if due_ms is not None})

    async def _earlier(self, outcomes: Sequence[Outcome]) -> Settled:
        """Of outcomes that changed no row: those that an earlier try settled, its reply lost, and those too late."""
        targets = [RULES[o.transition].target.value for o in outcomes]
        own = set(await self._values("settled_as", **_ends(outcomes), statuses=targets))
        return Settled([o for o in outcomes if o.job.id in own], [o for o in outcomes if o.job.id not in own])

    # -- living and dying

    async def heartbeat(
        self, worker: bytes, *, name: str, lease_seconds: float, types: Sequence[str], counters: str
    ) -> Beat:
        """Renew the lease, or take a first one."""
        own = {"id": Id(worker), "name": name, "lease": lease_seconds, "types": list(types), "counters": counters}
        beats = await self._rows(Beat, "heartbeat", **own)
        return beats[0] if beats else Beat(False, [])

    async def not_held(self, worker: bytes, job_ids: Sequence[bytes]) -> list[bytes]:
        """Which of these jobs the worker does not hold any more."""
        return await self._values("not_held", ids=Ids(job_ids), worker=Id(worker))

    async def held_by(self, worker: bytes) -> list[HeldJob]:
        """What a worker holds by the record, whether it knows or not."""
        return await self._rows(HeldJob, "held_by", worker=Id(worker))

    async def deregister(self, worker: bytes) -> None:
        """End a lease. What it held is given back before, or it is rescued as a dead worker's."""
        await self.postgres.change(QUERIES["deregister"], {"id": Id(worker)})

    async def workers(self) -> list[LiveWorker]:
        """Who lives, the oldest first."""
        return [LiveWorker(*[*row[:-1], _counters(row[-1])]) for row in await self._fetch("workers", {}, tuple_row)]

    async def leases(self) -> list[Lease]:
        """Of all workers that nobody has forgotten yet."""
        return await self._rows(Lease, "leases")

    async def fleet(self) -> list[KnownType]:
        """Every type that a worker ever registered."""
        return await self._rows(KnownType, "fleet")

    async def orphans(self, limit: int, rescuer: bytes | None = None) -> list[HeldJob]:
        """What workers hold whose lease ran out or is gone; nothing if the rescuer's own did. Reads all unfinished."""
        return await self._rows(HeldJob, "orphans", limit=limit, rescuer=rescuer and Id(rescuer))

    async def forget_dead(self) -> None:
        """Delete the leases that ran out and hold nothing any more."""
        await self.postgres.change(QUERIES["forget_dead"], {})

    async def overlooked(self, queued_for_seconds: float, limit: int) -> list[Due]:
        """PENDING jobs that Redis should hold and may not, as all published so long ago has been delivered.

        Up to `limit` that nobody has told it of, and as many that it may have lost.
        """
        found = await self._rows(Due, "overlooked", queued_for=queued_for_seconds, limit=limit)
        tell(OVERLOOKED, found)
        return found

    async def prune(self, after: bytes, before: bytes, retention_seconds: float, limit: int) -> list[bytes]:
        """Delete up to `limit` jobs with ids between the two that ended so long ago. Returns theirs, in order."""
        bounds = {"after": Id(after), "before": Id(before), "retention": retention_seconds, "limit": limit}
        pruned = await self._values("prune", **bounds)
        tell(PRUNED, pruned)
        return pruned

    # -- looking

    async def job(self, job_id: bytes) -> Job:
        """One job with its attempts. Raises JobNotFound."""
        rows = await self._rows(JobRow, "job", id=Id(job_id))
        if not rows:
            raise JobNotFound(id_text(job_id))
        return shown(rows[0], await self._rows(Attempt, "attempts", id=Id(job_id)))

    async def finished(self, job_ids: Sequence[bytes]) -> list[bytes]:
        """Which of these jobs are final, or gone."""
        return await self._values("finished", ids=Ids(job_ids))

    async def page(self, status: str | None, type: str | None, before: bytes | None, limit: int) -> Looked:
        """Jobs, newest first, older than `before`."""
        return await self._look("list", before, limit, status=status, type=type)

    async def dead_page(self, type: str | None, before: bytes | None, limit: int) -> Looked:
        """Dead letters, newest job first, older than `before`."""
        return await self._look("list_dead", before, limit, type=type)

    async def _look(self, query: str, before: bytes | None, limit: int, **filters: str | None) -> Looked:
        """Up to `limit` jobs that pass the filters; fewer when the look took too long, and others may follow."""
        jobs: list[JobSummary] = []
        until, start, end = time.monotonic() + LOOK_SECONDS, Id(before or _BEHIND), _FIRST
        while True:
            if any(filters.values()):
                steps = {"before": start, "most": LOOK_ROWS}
                ends = await self._values("list_end" if query == "list" else "list_dead_end", **steps)
                end = Id(ends[0]) if ends else _FIRST
            bounds = {"before": start, "end": end, "limit": limit - len(jobs)}
            jobs += await self._rows(JobSummary, query, **filters, **bounds)
            if end == _FIRST or len(jobs) == limit or time.monotonic() >= until:
                return Looked(jobs, None if end == _FIRST else end)
            start = end

    async def backlog(self, limit: int) -> int:
        """How many jobs are due or run, counted no further than `limit`."""
        return int(await self._value("backlog", limit=limit))

    async def starved_seconds(self) -> float:
        """How long a due job has waited that a live worker could run, while none runs any; 0: there is none."""
        return float(await self._value("starved"))

    async def live_counts(self, limit: int) -> Live:
        """Unfinished jobs by what they wait for, counted no further than `limit`."""
        return (await self._rows(Live, "live_counts", limit=limit))[0]

    # -- deciding

    async def cancel(self, job_id: bytes) -> bool:
        """Whether this call ended the job; it does not when the job is final or unknown."""
        return bool(await self._values("cancel", id=Id(job_id)))

    async def dead_letters(self, limit: int) -> list[Letter]:
        """Those of the newest jobs, the oldest of these first."""
        return await self._rows(Letter, "dead_letters", limit=limit)

    async def dead_digest(self, limit: int) -> str:
        """What `dead_letters` would answer, in short: how many, and the sum of a hash of each id."""
        return str(await self._value("dead_digest", limit=limit))

    async def dead_count(self) -> int:
        """How many dead letters there are."""
        return int(await self._value("dead_count"))

    async def match_dead(
        self, ids: Sequence[bytes] | None, type: str | None, error: str | None, older: float | None, limit: int
    ) -> list[bytes]:
        """Ids of the letters that meet every condition, oldest first; `error` is the middle of an ILIKE pattern."""
        chosen = None if ids is None else Ids(ids)
        return await self._values("match_dead", ids=chosen, type=type, error=error, older=older, limit=limit)

    async def redrive(self, ids: Sequence[bytes], interval_seconds: float) -> list[bytes]:
        """Send dead letters back, each due an interval after the one before. Returns those that were there."""
        return await self._values("redrive", ids=Ids(ids), interval=interval_seconds)

    async def purge(self, ids: Sequence[bytes]) -> list[bytes]:
        """Delete dead letters and their jobs. Returns those that were there."""
        return await self._values("purge", ids=Ids(ids))

    # -- letting in

    async def keys(self) -> list[tuple[str, str, bytes, datetime]]:
        """Each key's name, role and SHA-256, and when it was made."""
        return await self.postgres.fetch(QUERIES["api_keys"], {"most": MAX_KEYS})

    async def add_key(self, name: str, role: str, sha256: bytes) -> bool:
        """Whether it was added: not under a name that exists or has other characters, nor where there are MAX_KEYS."""
        return bool(await self._values("add_key", name=name, role=role, sha256=sha256, most=MAX_KEYS))

    async def revoke_key(self, name: str) -> bool:
        """Whether there was such a key; it opens nothing as soon as every API has looked again."""
        return bool(await self._values("revoke_key", name=name))

    async def note(self, asked: Sequence[dict[str, Any]], now: float) -> None:
        """Write these to the audit; `now` is of the clock that their `at` is of."""
        await self.postgres.change(QUERIES["note"], {"asked": msgspec.json.encode(asked).decode(), "now": now})

    async def prune_audit(self, retention_seconds: float, limit: int) -> int:
        """Delete a batch of old rows of the audit, and of refusals beyond the newest MAX_REFUSALS. Returns how many."""
        bounds = {"retention": retention_seconds, "limit": limit, "most": MAX_REFUSALS}
        return await self.postgres.change(QUERIES["prune_audit"], bounds)


def _counters(sent: bytes) -> dict[str, int]:
    """What a worker reports; nothing where it is no such report, as from another release."""
    try:
        return _read_counters(sent)
    except (ValueError, RecursionError):
        return {}


def _ends(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "ids": Ids(o.job.id for o in outcomes),
        "fences": [o.job.fence for o in outcomes],
        "errors": [o.error for o in outcomes],
    }


def columns(jobs: Sequence[NewJob]) -> dict[str, Any]:
    """The parameters of a statement that inserts jobs."""
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
