"""Submitting inside the caller's own transaction, and over HTTP by the client; with and without asyncio."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from scheduler import Client, Job, SchedulerError, SyncClient, samples, submit, submit_many
from scheduler.errors import InvalidJob, KeyReused, RequestRefused
from tests.cluster import Cluster, eventually

pytestmark = pytest.mark.asyncio

SOON = datetime.now(UTC) + timedelta(hours=1)
COUNT = "SELECT count(*) FROM scheduler.jobs"


async def test_a_job_exists_if_and_only_if_the_caller_commits(cluster: Cluster) -> None:
    await cluster.worker()
    async with await psycopg.AsyncConnection.connect(cluster.database_url) as conn:
        dropped = await submit(conn, "NOOP", {})
        await conn.rollback()
        kept = await submit(conn, "NOOP", {"order": 1}, idempotency_key="order-1")
        assert await submit(conn, "NOOP", {"order": 1}, idempotency_key="order-1") == kept
        assert cluster.unfinished() == 0
        await conn.commit()
        query = (
            "SELECT extract(epoch FROM now() - created_at)::float8 FROM scheduler.jobs WHERE finished_at IS NOT NULL"
        )
        await eventually(lambda: cluster.rows(query), within=3, of="the committed job, completed")
        assert [str(row[0]) for row in cluster.rows("SELECT id FROM scheduler.jobs")] == [kept]
        assert dropped != kept
        with pytest.raises(SchedulerError, match="order-1"):
            await submit(conn, "NOOP", {"order": 2}, idempotency_key="order-1")


async def test_a_connection_without_asyncio_submits_too_whatever_its_rows_look_like(cluster: Cluster) -> None:
    with psycopg.connect(cluster.database_url, row_factory=dict_row, cursor_factory=psycopg.ClientCursor) as conn:
        dropped = submit(conn, "NOOP", {})
        conn.rollback()
        kept = submit(conn, "NOOP", {"order": 1}, idempotency_key="k", run_at=SOON)
        assert submit(conn, "NOOP", {"order": 1}, idempotency_key="k", run_at=SOON.isoformat()) == kept
        with pytest.raises(InvalidJob, match="max_attempts"):
            submit(conn, "NOOP", {}, max_attempts=0)
        with pytest.raises(KeyReused):
            submit(conn, "NOOP", {"order": 2}, idempotency_key="k")
    assert cluster.rows("SELECT id::text FROM scheduler.jobs") == [(kept,)]
    assert dropped != kept


def _many(*keys: str | None, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "NOOP", "payload": {"n": n}, "idempotency_key": key, **more} for n, key in enumerate(keys)]


async def test_many_jobs_are_submitted_by_one_statement_in_order_all_or_none(cluster: Cluster) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.database_url) as conn:
        mixed = await submit_many(conn, _many(None, "b", None, "a", delay_seconds=5))
        assert len(set(mixed)) == 4
        again = await submit_many(conn, _many("x", "b", "y", "a", delay_seconds=5))
        assert (again[1], again[3], len({*mixed, *again})) == (mixed[1], mixed[3], 6)
        await submit_many(conn, [{"type": "NOOP", "payload": {}, "delay_seconds": 86_400.0}] * 2)
        ahead = "SELECT DISTINCT run_at - reconcile_at FROM scheduler.jobs WHERE run_at > now() + interval '1 hour'"
        found = await (await conn.execute(ahead)).fetchall()
        assert found == [(timedelta(minutes=1),)], "Redis is not told of what is far away"
        same = [{"type": "NOOP", "payload": {}, "idempotency_key": "twice"}] * 2
        assert len(set(await submit_many(conn, same))) == 1
        with pytest.raises(KeyReused, match="'thrice'"):
            await submit_many(conn, _many("thrice", "thrice"))
        before = (await (await conn.execute(COUNT)).fetchone() or [0])[0]
        with pytest.raises(KeyReused, match="'a'"):
            await submit_many(conn, _many("new-1", "new-2", "a"))
        assert (await (await conn.execute(COUNT)).fetchone() or [0])[0] == before
    assert cluster.rows("SELECT payload->>'n' FROM scheduler.jobs WHERE id = %s", mixed[1]) == [("1",)]
    with psycopg.connect(cluster.database_url, autocommit=True) as own:
        with pytest.raises(KeyReused):
            submit_many(own, _many("new-1", "new-2", "a"))
        ten_thousand = submit_many(own, _many(*[None] * 10_000))
    assert len(set(ten_thousand)) == 10_000
    assert cluster.rows(COUNT) == [(before + 10_000,)]


async def test_many_jobs_are_checked_before_any_sql(cluster: Cluster) -> None:
    good: dict[str, Any] = {"type": "NOOP", "payload": {}}
    refused: list[tuple[list[dict[str, Any]], str]] = [
        ([], "jobs: must be 1 to 10000 jobs"),
        ([good] * 10_001, "jobs: must be 1 to 10000 jobs"),
        ([good, {**good, "delay_seconds": -1}], r"jobs\[1\].delay_seconds: must be"),
        ([good, {**good, "payload": {"a": math.nan}}], r"jobs\[1\].payload.a: cannot be said in JSON"),
        ([{"type": "NOOP", "payload": {"a": "x" * 1_000_000}}] * 17, "jobs: has 17000136 bytes"),
    ]
    with psycopg.connect(cluster.database_url) as conn:
        for jobs, reason in refused:
            with pytest.raises(InvalidJob, match=f"^{reason}"):
                submit_many(conn, jobs)
        with pytest.raises(TypeError, match="delay"):
            submit_many(conn, [{**good, "delay": 1}])
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("payload", [[1], {"a": "\x00"}, {"a": float("nan")}, {"a": object()}, {"a": "\ud800"}])
async def test_a_payload_that_is_no_storable_object_is_refused_before_the_database(
    payload: Any, database_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        with pytest.raises(SchedulerError, match="payload"):
            await submit(conn, "NOOP", payload)
        await conn.execute("SELECT 1")


async def test_what_can_submit_nothing_is_told_so(database_url: str) -> None:
    nobody: Any = object()
    with pytest.raises(TypeError, match="by a psycopg connection or a scheduler client"):
        submit(nobody, "NOOP", {})
    with psycopg.connect(database_url) as conn, pytest.raises(TypeError, match="delay"):
        submit(conn, "NOOP", {}, delay=5)  # type: ignore[call-overload]


async def test_a_handler_submits_jobs_of_its_own_type_through_each_door(cluster: Cluster) -> None:
    url, noop = await cluster.api(), samples.noop
    assert isinstance(noop, Job)
    with psycopg.connect(cluster.database_url) as conn, SyncClient(url) as client:
        ids: list[str] = [noop.submit(conn, {}), noop.submit(client, {}, delay_seconds=60)]
    async with await psycopg.AsyncConnection.connect(cluster.database_url) as later, Client(url) as async_client:
        ids += [await noop.submit(later, {}), await asyncio.create_task(noop.submit(async_client, {}, run_at=SOON))]
    stored = cluster.rows("SELECT id::text, type FROM scheduler.jobs ORDER BY id")
    assert stored == [(job_id, "NOOP") for job_id in sorted(ids)]


async def test_the_client_raises_what_the_api_refuses(cluster: Cluster) -> None:
    url = await cluster.api()
    async with Client(url) as client:
        with pytest.raises(SchedulerError, match="did you mean 'NOOP'"):
            await client.submit("NOPE", {})

    def talk() -> None:
        with SyncClient(url) as client:
            job = client.submit("NOOP", {"a": 1}, idempotency_key="k")
            assert client.submit("NOOP", {"a": 1}, idempotency_key="k")["id"] == job["id"]
            assert client.get(job["id"], wait=0.1)["status"] == "PENDING"
            assert len(client.submit_batch([{"type": "NOOP", "payload": {}, "run_at": SOON}] * 3)) == 3
            assert client.cancel(job["id"])["status"] == "CANCELLED"
            assert client.stats()["workers"] == []
            assert client.dead_letters(limit=5)["jobs"] == []
            assert client.redrive(type="NOOP", dry_run=True) == client.purge(type="NOOP", dry_run=True) == []
            with pytest.raises(RequestRefused, match="HTTP 409"):
                client.submit("NOOP", {"a": 2}, idempotency_key="k")

    await asyncio.to_thread(talk)


async def test_what_json_has_no_word_for_is_text_or_named_before_it_is_sent() -> None:
    moment, number = datetime(2030, 1, 1, 12, tzinfo=UTC), uuid.UUID(int=1)
    with _listening() as (url, heard), SyncClient(url, timeout_seconds=5) as client:
        payload = {"at": moment, "id": number, "sum": Decimal("1.50"), "day": moment.date()}
        client.submit("NOOP", payload, run_at=moment)
        assert heard[0]["payload"] == {
            "at": "2030-01-01T12:00:00Z",
            "id": str(number),
            "sum": "1.50",
            "day": "2030-01-01",
        }
        assert heard[0]["run_at"] == "2030-01-01T12:00:00Z"
        for bad in (math.nan, object(), {(1, 2): 3}, "\ud800"):
            with pytest.raises(InvalidJob, match=r"^payload\.lines\[1\]\.price: cannot be said in JSON"):
                client.submit("NOOP", {"lines": [{}, {"price": bad}]})
        with pytest.raises(InvalidJob, match=r"^run_at: "):
            client.submit("NOOP", {}, run_at="tomorrow")
        with pytest.raises(TypeError, match="timeout"):
            client.submit("NOOP", {}, timeout=5)  # type: ignore[call-arg]
        assert len(heard) == 1


async def test_a_submission_whose_reply_is_lost_is_sent_again_under_one_key() -> None:
    with _listening(lost=2) as (url, heard):
        async with Client(url, timeout_seconds=5) as client:
            assert (await client.submit("NOOP", {}))["id"] == "i"
    assert len(heard) == 3
    assert len({body["idempotency_key"] for body in heard}) == 1


@contextmanager
def _listening(lost: int = 0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that notes what is posted; it hangs up on the first `lost` requests once it has read them."""
    heard: list[dict[str, Any]] = []

    def serve() -> None:
        while True:
            try:
                taken, _ = server.accept()
            except OSError:
                return
            with taken:
                answer(taken)

    def answer(taken: socket.socket) -> None:
        taken.settimeout(5)
        data = b""
        while len(data.partition(b"\r\n\r\n")[2]) < _length(data):
            data += taken.recv(65_536)
        heard.append(httpx.Response(200, content=data.partition(b"\r\n\r\n")[2]).json())
        if len(heard) > lost:
            taken.sendall(b'HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 10\r\n\r\n{"id":"i"}')

    def _length(data: bytes) -> int:
        head = data.partition(b"\r\n\r\n")[0].lower()
        return int(head.partition(b"content-length:")[2].split(b"\r\n")[0]) if b"\r\n\r\n" in data else 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
