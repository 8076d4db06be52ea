"""How programs hand in jobs: over HTTP, or inside their own PostgreSQL transaction."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import uuid
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import psycopg

from scheduler import settings
from scheduler.errors import InvalidJob, KeyReused, RequestRefused, StoreUnavailable
from scheduler.jobs.job import IdSequence, fingerprint
from scheduler.storage.store import QUERIES

_ids = IdSequence()
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_TRIES = 5
_RETRIED = frozenset({429, 503})


async def submit(
    conn: psycopg.AsyncConnection[Any],
    type: str,
    payload: dict[str, Any],
    *,
    delay_seconds: float = 0.0,
    run_at: datetime | None = None,
    max_attempts: int | None = None,
    timeout_seconds: float | None = None,
    idempotency_key: str | None = None,
) -> str:
    """Submit a job inside the caller's transaction: it exists if and only if the caller commits.

    It is published within a second of the commit. Returns the job's id; with a key that exists already, the id of
    that key's job. Raises InvalidJob for a payload that is no JSON object PostgreSQL can store, and KeyReused when
    the key belongs to a job of another type, payload or options.
    """
    if run_at is not None and run_at.tzinfo is None:
        raise InvalidJob("run_at", "must carry a time zone")
    if idempotency_key == "":
        raise InvalidJob("idempotency_key", "must not be empty; leave it out, or send None")
    text, due = encode_payload(payload), run_at.timestamp() if run_at else None
    job_id = uuid.UUID(bytes=_ids.take(1, time.time_ns(), os.urandom(8))[0])
    print_ = fingerprint(
        type,
        msgspec.json.decode(text),
        delay_seconds=delay_seconds,
        run_at=due,
        max_attempts=max_attempts,
        timeout_seconds=timeout_seconds,
    )
    cursor = await conn.execute(
        QUERIES["submit"],
        {
            "id": job_id,
            "type": type,
            "payload": text,
            "max_attempts": max_attempts or settings.load().max_attempts,
            "timeout": timeout_seconds,
            "run_at": due,
            "delay": delay_seconds,
            "key": idempotency_key,
            "fingerprint": print_ if idempotency_key else None,
        },
    )
    if cursor.rowcount or idempotency_key is None:
        return str(job_id)
    return await _existing(conn, idempotency_key, print_)


async def _existing(conn: psycopg.AsyncConnection[Any], key: str, print_: bytes) -> str:
    cursor = conn.cursor(row_factory=psycopg.rows.tuple_row)
    await cursor.execute(QUERIES["accepted"], {"ids": [], "keys": [key]})
    row = await cursor.fetchone()
    if row is None:
        raise StoreUnavailable("PostgreSQL", f"the job of key {key!r} is being submitted by an older snapshot's rival")
    if bytes(row[2] or b"") != print_:
        raise KeyReused(key, str(row[0]))
    return str(row[0])


def encode_payload(payload: dict[str, Any]) -> str:
    """JSON text that PostgreSQL can store. Raises InvalidJob."""
    if not isinstance(payload, dict):
        raise InvalidJob("payload", f"must be a JSON object, not {payload.__class__.__name__}")
    try:
        text = json.dumps(payload, allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJob("payload", f"is not JSON: {error}") from error
    if _NUL.search(text):
        raise InvalidJob("payload", "holds the character NUL, which PostgreSQL cannot store")
    return text


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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        return await self._request("POST", f"/jobs/{job_id}/cancel")

    async def stats(self) -> dict[str, Any]:
        return await self._request("GET", "/stats")

    async def dead_letters(self, **filters: Any) -> dict[str, Any]:
        return await self._request("GET", "/dlq", params=filters)

    async def redrive(self, **selection: Any) -> list[str]:
        return list((await self._request("POST", "/dlq/redrive", json=selection))["ids"])

    async def purge(self, **selection: Any) -> list[str]:
        return list((await self._request("DELETE", "/dlq", json=selection))["ids"])

    async def _request(self, method: str, path: str, *, patient: bool = False, **options: Any) -> dict[str, Any]:
        """Send, and when `patient` send again after a refusal that invites it or a connection that broke."""
        for attempt in range(_TRIES if patient else 1):
            last = attempt == _TRIES - 1 or not patient
            try:
                answer = await self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if last:
                    raise StoreUnavailable("the API", str(error) or error.__class__.__name__) from error
                await asyncio.sleep(0.1 * 2**attempt)
                continue
            if answer.status_code in _RETRIED and not last:
                await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
                continue
            return _read(answer)
        raise AssertionError("unreachable")


def _read(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = {"title": answer.text[:200]}
    if not answer.is_success:
        raise RequestRefused(answer.status_code, content)
    return dict(content)
