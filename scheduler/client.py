"""How programs hand in jobs: over HTTP, or inside their own PostgreSQL transaction."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

import httpx
import msgspec
import psycopg

from scheduler import settings
from scheduler.errors import RequestRefused, StoreUnavailable
from scheduler.jobs.job import IdSequence
from scheduler.storage.store import QUERIES
from scheduler.submission.submission import Submission, require_same

_ids = IdSequence()
_PAUSES = (0.1, 0.2, 0.4, 0.8)  # seconds before each further try
_RETRIED = frozenset({429, 503})


def new_id() -> bytes:
    """A fresh job id."""
    return _ids.take(1, time.time_ns(), os.urandom(8))[0]


async def submit(
    conn: psycopg.AsyncConnection[Any],
    type: str,
    payload: dict[str, Any],
    *,
    delay_seconds: float | None = None,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Submit a job inside the caller's transaction: it exists if and only if the caller commits.

    It is published within a second of the commit. Returns the job's id; with a key that exists already, the id of
    that key's job. Raises InvalidJob for what POST /jobs would refuse, before any SQL, and KeyReused when the key
    belongs to a job of another type, payload or options: either way the caller's transaction can go on.
    """
    options = (delay_seconds, run_at, max_attempts, timeout_seconds, idempotency_key)
    job = Submission.of(type, payload, *options).job(new_id(), time.time(), settings.load())
    columns = {**msgspec.structs.asdict(job), "id": uuid.UUID(bytes=job.id)}
    inserted = (await conn.execute(QUERIES["submit"], columns)).rowcount
    if inserted or job.idempotency_key is None:
        return str(columns["id"])
    cursor = conn.cursor(row_factory=psycopg.rows.tuple_row)
    row = await (await cursor.execute(QUERIES["accepted"], {"ids": [], "keys": [job.idempotency_key]})).fetchone()
    if row is None:
        reason = f"the job of key {job.idempotency_key!r} is being submitted by an older snapshot's rival"
        raise StoreUnavailable("PostgreSQL", reason)
    require_same(job, str(row[0]), row[2] and bytes(row[2]))
    return str(row[0])


class Client:
    """The HTTP API as an async context manager. Submissions carry an idempotency key, so retrying one is harmless."""

    def __init__(
        self, url: str = "http://127.0.0.1:3000", *, key: str | None = None, timeout_seconds: float = 10.0
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout_seconds, trust_env=False)
        self._timeout = timeout_seconds

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def submit(self, type: str, payload: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Submit one job; options as in POST /jobs. Raises RequestRefused."""
        options.setdefault("idempotency_key", uuid.uuid4().hex)
        return await self._request("POST", "/jobs", json={"type": type, "payload": payload, **options}, patient=True)

    async def submit_batch(self, jobs: Iterable[dict[str, Any]]) -> list[str]:
        """Submit up to 10,000 jobs, all or none. Give each an idempotency_key if a lost reply is to be retried."""
        batch = list(jobs)
        keyed = all("idempotency_key" in job for job in batch)
        return list((await self._request("POST", "/jobs/batch", json={"jobs": batch}, patient=keyed))["ids"])

    async def get(self, job_id: str, *, wait: float = 0.0) -> dict[str, Any]:
        """One job; with `wait`, as soon as it is final or after that many seconds (60 at most)."""
        return await self._request("GET", f"/jobs/{job_id}", params={"wait": wait}, timeout=self._timeout + wait)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; returns it. Raises RequestRefused when it is final or unknown."""
        return await self._request("POST", f"/jobs/{job_id}/cancel")

    async def stats(self) -> dict[str, Any]:
        """Figures of now, as GET /stats gives them."""
        return await self._request("GET", "/stats")

    async def dead_letters(self, **filters: Any) -> dict[str, Any]:
        """A page of dead letters; filters as in GET /dlq."""
        return await self._request("GET", "/dlq", params=filters)

    async def redrive(self, **selection: Any) -> list[str]:
        """Send dead letters back; returns their ids."""
        return list((await self._request("POST", "/dlq/redrive", json=selection))["ids"])

    async def purge(self, **selection: Any) -> list[str]:
        """Delete dead letters for good; returns their ids."""
        return list((await self._request("DELETE", "/dlq", json=selection))["ids"])

    async def _request(self, method: str, path: str, *, patient: bool = False, **options: Any) -> dict[str, Any]:
        """Send, and when `patient` send again after a refusal that invites it or a connection that broke."""
        for pause in _PAUSES if patient else ():
            try:
                answer = await self._http.request(method, path, **options)
            except httpx.TransportError:
                await asyncio.sleep(pause)
                continue
            if answer.status_code not in _RETRIED:
                return _read(answer)
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        try:
            return _read(await self._http.request(method, path, **options))
        except httpx.TransportError as error:
            raise StoreUnavailable("the API", str(error) or error.__class__.__name__) from error


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = {"title": answer.text[:200]}
    if not answer.is_success:
        raise RequestRefused(answer.status_code, content)
    return dict(content)
