"""Its door (HTTP) and its looks (tables, keys): put together as the value that the harness works with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from chaos.record.history import Final
from chaos.targets.ours.garbage import kinds
from chaos.targets.ours.processes import command, prepare, reply_lost
from chaos.targets.target import Answer, Look, Request, Target

STREAM = "jobs_stream"
LOOK = Look(
    counts="""
        SELECT count(*), count(*) FILTER (WHERE status = 'PROCESSING'),
               (SELECT count(*) FROM scheduler.workers WHERE expires_at > now())
        FROM scheduler.jobs WHERE finished_at IS NULL
    """,
    unfinished="SELECT count(*) FROM scheduler.jobs WHERE finished_at IS NULL",
    failed="SELECT count(*) FROM scheduler.jobs WHERE status = 'FAILED'",
    finished="""
        SELECT id::text, status, attempt FROM scheduler.jobs
        WHERE finished_at > clock_timestamp() - interval '10 seconds'
    """,
    span="""
        SELECT extract(epoch FROM min(started_at))::float8, extract(epoch FROM max(finished_at))::float8
        FROM scheduler.jobs
    """,
    ids="SELECT id::text FROM scheduler.jobs ORDER BY id",
    stream=STREAM,
    group="workers",
    retry=f"{{{STREAM}}}:retry",
    letters=f"{STREAM}:dlq",
    letter_id=b"id",
    garbage=kinds(STREAM, "workers"),
    total="SELECT count(*) FROM scheduler.jobs",
    fill="""
        INSERT INTO scheduler.jobs (id, type, payload, max_attempts, status, finished_at, run_at, reconcile_at)
        SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'SLEEP', '{"seconds": 600}', 4,
               %(status)s::text,
               CASE WHEN %(status)s::text <> 'PENDING' THEN past END, past, past
        FROM generate_series(1, %(jobs)s) AS n, (SELECT now() - interval '1 hour') AS hour(past)
    """,
    hold_key="""
        INSERT INTO scheduler.jobs (id, type, payload, max_attempts, idempotency_key)
        VALUES (gen_random_uuid(), 'NOOP', '{}', 1, %(key)s)
    """,
    age_leases="UPDATE scheduler.workers SET expires_at = expires_at - %(seconds)s * interval '1 second'",
)


def is_ready(http: httpx.Client, workers: int) -> bool:
    """Whether the API serves, says that it is ready, and sees so many workers."""
    if not http.get("/readyz").is_success:
        return False
    return len(http.get("/stats").json()["workers"]) >= workers


def submit(type: str, payload: dict[str, Any], key: str | None) -> Request:
    """One job; without a key each sending is a job of its own."""
    body = {"type": type, "payload": payload} | ({} if key is None else {"idempotency_key": key})
    return Request("/jobs", msgspec.json.encode(body))


def submit_batch(jobs: Sequence[tuple[str, dict[str, Any]]]) -> Request:
    """Up to 10,000 jobs."""
    return Request("/jobs/batch", msgspec.json.encode({"jobs": [{"type": t, "payload": p} for t, p in jobs]}))


def accepted(status: int, body: Any) -> list[str]:
    """Of POST /jobs/batch."""
    if status != 202:
        raise ValueError(f"{status} {body.get('detail', '')}"[:200])
    return list(body["ids"])


def answer(status: int, body: Any) -> Answer:
    """Accepted, or known already (2xx); refused (4xx), for now when the backlog is full (429); else nobody knows."""
    told = body if isinstance(body, dict) else {}
    if 200 <= status < 300 and "id" in told:
        return Answer("ok", {"id": told["id"], "status": told.get("status")})
    error = f"{status} {told.get('detail', '')}"[:200]
    if 400 <= status < 500:
        return Answer("fail", error=error, again=status == 429)
    return Answer("info", error=error, again=True)


def find(job: str) -> Request:
    """The job with all that became of it."""
    return Request(f"/jobs/{job}")


def cancel(job: str) -> Request:
    """End it, unless it is final."""
    return Request(f"/jobs/{job}/cancel", b"{}")


def final(content: bytes) -> Final:
    """Raises msgspec.DecodeError for what is no job."""
    return msgspec.json.decode(content, type=Final)


OURS = Target(
    name="ours",
    prepare=prepare,
    command=command,
    is_ready=is_ready,
    submit=submit,
    submit_batch=submit_batch,
    accepted=accepted,
    answer=answer,
    find=find,
    cancel=cancel,
    final=final,
    reply_lost=reply_lost,
    look=LOOK,
    gives_up_with=os.EX_SOFTWARE,
)
