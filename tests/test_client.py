"""Submitting inside the caller's own transaction, and over HTTP by the client."""

from __future__ import annotations

import psycopg
import pytest

from scheduler import Client, SchedulerError, submit
from tests.cluster import Cluster, eventually

pytestmark = pytest.mark.asyncio


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


@pytest.mark.parametrize("payload", [[1], {"a": "\x00"}, {"a": float("nan")}, {"a": object()}, {"a": "\ud800"}])
async def test_a_payload_that_is_no_storable_object_is_refused_before_the_database(
    payload: object, database_url: str
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        with pytest.raises(SchedulerError, match="payload"):
            await submit(conn, "NOOP", payload)  # type: ignore[arg-type]
        await conn.execute("SELECT 1")


async def test_the_client_raises_what_the_api_refuses(cluster: Cluster) -> None:
    async with Client(await cluster.api()) as client:
        with pytest.raises(SchedulerError, match="did you mean 'NOOP'"):
            await client.submit("NOPE", {})
