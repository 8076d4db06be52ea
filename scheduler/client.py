"""How programs hand in jobs: over HTTP, or inside their own PostgreSQL transaction; each with and without asyncio."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import Any, Generic, Self, TypeAlias, TypeVar, Unpack, cast, overload

import httpx
import msgspec
import psycopg
from psycopg.rows import tuple_row

from scheduler import settings
from scheduler.errors import InvalidJob, PayloadTooLarge, RequestRefused, StoreUnavailable
from scheduler.jobs.job import IdSequence, NewJob, id_text
from scheduler.storage.store import QUERIES, columns
from scheduler.submission.submission import MAX_BATCH_JOBS, Batch, Options, Submission, refused, require_same

One = TypeVar("One")
Several = TypeVar("Several")
Found = TypeVar("Found")
Awaited = Coroutine[Any, Any, Found]
Now: TypeAlias = "psycopg.Connection[Any] | SyncClient"
Later: TypeAlias = "psycopg.AsyncConnection[Any] | Client"
_Answer = httpx.Response | httpx.TransportError

_ids = IdSequence()
_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds before each further try
_LONGEST_PAUSE_SECONDS = 10.0
_RETRIED = frozenset({429, 503})


def new_id() -> bytes:
    """A fresh job id."""
    return _ids.take(1, time.time_ns(), os.urandom(8))[0]


@overload
def submit(to: Now, type: str, payload: dict[str, Any], **options: Unpack[Options]) -> str: ...
@overload
def submit(to: Later, type: str, payload: dict[str, Any], **options: Unpack[Options]) -> Awaited[str]: ...
def submit(to: Any, type: str, payload: dict[str, Any], **options: Unpack[Options]) -> Any:
    """Submit a job inside the caller's transaction: it exists if and only if the caller commits. Or by a client.

    It is published within a second of the commit. Returns the job's id, to be awaited from what is async; with a key
    that exists already, the id of that key's job. Raises InvalidJob for what POST /jobs would refuse, before any SQL,
    and KeyReused when the key belongs to a job of another type, payload or options: either way the caller's transaction
    can go on.
    """
    if isinstance(to, Client | SyncClient):
        answer: Any = to.submit(type, payload, **options)
    else:
        answer = _insert(to, [Submission.of(type, payload, **options)])
    return _later_id(answer) if asyncio.iscoroutine(answer) else _id_in(answer)


async def _later_id(answer: Awaited[Any]) -> str:
    return _id_in(await answer)


def _id_in(answer: Any) -> str:
    return str(answer["id"] if isinstance(answer, dict) else answer[0])


@overload
def submit_many(to: Now, jobs: Iterable[Mapping[str, Any]]) -> list[str]: ...
@overload
def submit_many(to: Later, jobs: Iterable[Mapping[str, Any]]) -> Awaited[list[str]]: ...
def submit_many(to: Any, jobs: Iterable[Mapping[str, Any]]) -> Any:
    """As `submit`, for up to 10,000 jobs: all or none, by one statement. Returns their ids in order."""
    return to.submit_batch(jobs) if isinstance(to, Client | SyncClient) else _insert(to, _checked(jobs))


def _checked(jobs: Iterable[Mapping[str, Any]]) -> list[Submission]:
    """Raises InvalidJob, naming which of them it is."""
    given = list(islice(jobs, MAX_BATCH_JOBS + 1))
    if not 1 <= len(given) <= MAX_BATCH_JOBS:
        raise refused("jobs", "")
    checked = list[Submission]()
    for n, fields in enumerate(given):
        try:
            checked.append(Submission.of(**fields))
        except InvalidJob as error:
            error.field = f"jobs[{n}].{error.field}"
            raise
    return checked


def _insert(to: Any, asked: list[Submission]) -> list[str] | Awaited[list[str]]:
    """The ids; jobs are made, and every bound is checked, before any SQL."""
    now, config = time.time(), settings.load()
    limit, size = config.max_request_bytes, sum(len(bytes(one.payload)) for one in asked)
    jobs = [one.job(new_id(), now, config) for one in asked]
    if len(jobs) > 1 and size > limit:
        raise PayloadTooLarge("jobs", size, limit, "send several batches")
    if isinstance(to, psycopg.Connection):
        return _by_sql(to, jobs)
    if isinstance(to, psycopg.AsyncConnection):
        return _by_sql_later(to, jobs)
    raise TypeError(f"jobs are submitted by a psycopg connection or a scheduler client, not by {type(to)}")


def _by_sql(conn: psycopg.Connection[Any], jobs: list[NewJob]) -> list[str]:
    cursor = psycopg.Cursor(conn, row_factory=tuple_row)
    with conn.transaction() if len(jobs) > 1 else nullcontext():
        if cursor.execute(*_insertion(jobs)).rowcount == len(jobs):
            return [id_text(job.id) for job in jobs]
        return _held(jobs, cursor.execute(QUERIES["accepted"], _keys(jobs)).fetchall())


async def _by_sql_later(conn: psycopg.AsyncConnection[Any], jobs: list[NewJob]) -> list[str]:
    cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
    async with conn.transaction() if len(jobs) > 1 else nullcontext():
        if (await cursor.execute(*_insertion(jobs))).rowcount == len(jobs):
            return [id_text(job.id) for job in jobs]
        return _held(jobs, await (await cursor.execute(QUERIES["accepted"], _keys(jobs))).fetchall())


def _insertion(jobs: list[NewJob]) -> tuple[str, dict[str, Any]]:
    if len(jobs) == 1:
        return QUERIES["submit"], {**msgspec.structs.asdict(jobs[0]), "id": uuid.UUID(bytes=jobs[0].id)}
    # Unique keys are locked in one order by every process, or two of them would deadlock.
    ordered = sorted(jobs, key=lambda job: job.idempotency_key or "")
    return QUERIES["submit_many"], {**columns(ordered), "ids": [uuid.UUID(bytes=job.id) for job in ordered]}


def _keys(jobs: list[NewJob]) -> dict[str, Any]:
    return {"ids": [], "keys": [job.idempotency_key for job in jobs if job.idempotency_key]}


def _held(jobs: list[NewJob], rows: list[tuple[Any, ...]]) -> list[str]:
    """The ids of jobs of which some had been submitted before. Raises KeyReused."""
    holders = {row[1]: row for row in rows}
    for job in jobs:
        if (key := job.idempotency_key) and key not in holders:
            reason = f"the job of key {key!r} is being submitted by an older snapshot's rival"
            raise StoreUnavailable("PostgreSQL", reason)
        if key:
            require_same(job, str(holders[key][0]), holders[key][2])
    return [str(holders[job.idempotency_key][0]) if job.idempotency_key else id_text(job.id) for job in jobs]


def _pause(answer: _Answer, planned: float | None) -> float | None:
    """Seconds until a request is sent again; None: what came is the answer."""
    if planned is None or isinstance(answer, httpx.TransportError):
        return planned
    after = answer.headers.get("Retry-After", "")
    seconds = min(float(after), _LONGEST_PAUSE_SECONDS) if after.isdigit() else 1.0
    return seconds if answer.status_code in _RETRIED else None


def _read(answer: _Answer) -> Any:
    """Raises RequestRefused, and StoreUnavailable when no answer came."""
    if isinstance(answer, httpx.TransportError):
        raise StoreUnavailable("the API", str(answer) or answer.__class__.__name__) from answer
    try:
        content = answer.json()
    except ValueError:
        content = {"title": answer.text[:200]}
    if not answer.is_success:
        raise RequestRefused(answer.status_code, content)
    return content.get("ids", content)


class _Calls(Generic[One, Several]):
    """What can be asked of the API. `_send` returns what comes back, or what is to be awaited for it."""

    def __init__(
        self, url: str = "http://127.0.0.1:3000", *, key: str | None = None, timeout_seconds: float = 10.0
    ) -> None:
        self._timeout = timeout_seconds
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._open(base_url=url, headers=headers, timeout=timeout_seconds, trust_env=False)

    def _open(self, **options: Any) -> None:
        raise NotImplementedError

    def _send(self, method: str, path: str, *, patient: bool = False, **options: Any) -> Any:
        """The answer. Patient: sent again after a refusal that invites it or a connection that broke."""
        raise NotImplementedError

    def submit(self, type: str, payload: dict[str, Any], **options: Unpack[Options]) -> One:
        """Submit one job; returns the answer of POST /jobs. Raises InvalidJob before sending, and RequestRefused.

        Without an idempotency key it gets one of its own: sent again after a lost reply, it is one job all the same.
        """
        if options.get("idempotency_key") is None:
            options["idempotency_key"] = uuid.uuid4().hex
        return self._one("POST", "/jobs", patient=True, **_body(Submission.of(type, payload, **options)))

    def submit_batch(self, jobs: Iterable[Mapping[str, Any]]) -> Several:
        """Submit up to 10,000 jobs, all or none. Give each an idempotency_key if a lost reply is to be retried."""
        batch = Batch(_checked(jobs))
        return self._several("POST", "/jobs/batch", batch, patient=all(job.idempotency_key for job in batch.jobs))

    def get(self, job_id: str, *, wait: float = 0.0) -> One:
        """One job; with `wait`, as soon as it is final or after that many seconds (60 at most)."""
        return self._one("GET", f"/jobs/{job_id}", params={"wait": wait}, timeout=self._timeout + wait)

    def cancel(self, job_id: str) -> One:
        """Cancel a job; returns it. Raises RequestRefused when it is final or unknown."""
        return self._one("POST", f"/jobs/{job_id}/cancel")

    def stats(self) -> One:
        """Figures of now, as GET /stats gives them."""
        return self._one("GET", "/stats")

    def dead_letters(self, **filters: Any) -> One:
        """A page of dead letters; filters as in GET /dlq."""
        return self._one("GET", "/dlq", params=filters)

    def redrive(self, **selection: Any) -> Several:
        """Send dead letters back; returns their ids."""
        return self._several("POST", "/dlq/redrive", selection)

    def purge(self, **selection: Any) -> Several:
        """Delete dead letters for good; returns their ids."""
        return self._several("DELETE", "/dlq", selection)

    def _one(self, method: str, path: str, **options: Any) -> One:
        return cast("One", self._send(method, path, **options))

    def _several(self, method: str, path: str, body: object, *, patient: bool = False) -> Several:
        return cast("Several", self._send(method, path, patient=patient, **_body(body)))


class Client(_Calls[Awaited[dict[str, Any]], Awaited[list[str]]]):
    """The HTTP API as an async context manager."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def _send(self, method: str, path: str, *, patient: bool = False, **options: Any) -> Any:
        pauses = iter(_PAUSES if patient else ())
        while True:
            try:
                answer: _Answer = await self._http.request(method, path, **options)
            except httpx.TransportError as error:
                answer = error
            if (pause := _pause(answer, next(pauses, None))) is None:
                return _read(answer)
            await asyncio.sleep(pause)


class SyncClient(_Calls[dict[str, Any], list[str]]):
    """The HTTP API without asyncio, as a context manager; threads may share it."""

    def _open(self, **options: Any) -> None:
        self._http = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _send(self, method: str, path: str, *, patient: bool = False, **options: Any) -> Any:
        pauses = iter(_PAUSES if patient else ())
        while True:
            try:
                answer: _Answer = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                answer = error
            if (pause := _pause(answer, next(pauses, None))) is None:
                return _read(answer)
            time.sleep(pause)


def _body(content: object) -> dict[str, Any]:
    return {"content": msgspec.json.encode(content), "headers": {"content-type": "application/json"}}
