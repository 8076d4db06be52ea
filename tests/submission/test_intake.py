"""What one submission may cost another: an open transaction, or a value that PostgreSQL refuses, is its own affair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest

from scheduler import submit
from scheduler.errors import ValueRefused
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.submission.backlog import Backlog
from scheduler.submission.intake import Intake
from scheduler.submission.publisher import Publisher
from tests.cluster import JSON, Cluster
from tests.storage.factory import new_job

pytestmark = pytest.mark.asyncio

QUICK_SECONDS = 1.0  # the promise is 100 ms; without the cure it was 5 s and more


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as own:
        yield own


async def _post(http: httpx.AsyncClient, key: str | None = None, **payload: Any) -> tuple[httpx.Response, float]:
    """The answer, and the seconds that it took."""
    began = time.monotonic()
    body = {"type": "NOOP", "payload": payload} | ({"idempotency_key": key} if key else {})
    return await http.post("/jobs", json=body), time.monotonic() - began


async def test_a_key_in_an_open_transaction_is_answered_503_and_delays_nobody_else(
    database_url: str, http: httpx.AsyncClient
) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        await submit(conn, "NOOP", {}, idempotency_key="K")
        together = [_post(http, "K"), *(_post(http, f"other-{n}" if n % 2 else None, n=n) for n in range(20))]
        (victim, waited), *others = await asyncio.gather(*together)
        assert {answer.status_code for answer, _ in others} == {202}
        assert max(seconds for _, seconds in others) < QUICK_SECONDS
        assert (victim.status_code, "retry-after" in victim.headers) == (503, True)
        assert "by a transaction that is still open" in victim.json()["detail"]
        assert 1 < waited < 5
        stuck = [asyncio.ensure_future(_post(http, "K", different=n)) for n in range(3)]
        await asyncio.sleep(0)
        later = [await _post(http, f"later-{n}" if n % 2 else None) for n in range(20)]
        assert max(seconds for _, seconds in later) < QUICK_SECONDS
        await conn.commit()
    assert {(await one)[0].status_code for one in stuck} == {409}, "another body, as it turned out"
    assert (await _post(http, "K"))[0].status_code == 200


@pytest.mark.parametrize("order", [("A", "B"), ("B", "A")])
async def test_two_keys_of_one_transaction_in_either_order_harm_neither_it_nor_a_batch(
    database_url: str, http: httpx.AsyncClient, order: tuple[str, str]
) -> None:
    jobs: list[dict[str, Any]] = [{"type": "NOOP", "payload": {}, "idempotency_key": key} for key in ("A", "B")]
    async with await psycopg.AsyncConnection.connect(database_url) as conn:
        own = [await submit(conn, "NOOP", {}, idempotency_key=order[0])]
        batch = asyncio.ensure_future(http.post("/jobs/batch", json={"jobs": jobs}))
        single = asyncio.ensure_future(_post(http, order[1]))
        await _post(http)
        own.append(await submit(conn, "NOOP", {}, idempotency_key=order[1]))
        await conn.commit()
    answer = await batch
    assert answer.status_code == 202
    assert (await single)[0].status_code in (200, 202)
    assert sorted(answer.json()["ids"]) == sorted(own)


async def test_a_value_that_is_refused_fails_its_own_request_only(store: Store, stream: Stream) -> None:
    publisher, backlog = Publisher(stream), Backlog(store, 1_000)
    intake, stop = Intake(store, publisher, backlog), asyncio.Event()
    texts = [(text, key) for key in (None, "k") for text in ("{}", "no JSON", '{"a": 1}')]
    jobs = [new_job(payload=text, idempotency_key=key and key + text, fingerprint=b"f") for text, key in texts]
    waiting = [asyncio.ensure_future(intake.submit([job])) for job in jobs]
    await asyncio.sleep(0)
    loops = [asyncio.ensure_future(service.run(stop)) for service in (backlog, *intake.lanes)]
    found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    stop.set()
    await asyncio.gather(*loops)
    assert [isinstance(one, ValueRefused) for one in found] == [text == "no JSON" for text, _ in texts]
    assert len(await store.finished([job.id for job in jobs])) == 2, "the others are there"
