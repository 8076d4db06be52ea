"""Rows that came from SQL or another client: what no JSON can say is shown as well as can be, among the others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec
import psycopg
import pytest

from scheduler.jobs.job import id_text
from scheduler.keepers.reconciler import Reconciler
from scheduler.storage.postgres import Postgres
from scheduler.storage.schema import migrate
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.cluster import Cluster
from tests.storage.factory import alter, dead, live_worker, submitted, value

FIRST, LAST = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
TIMES = [
    ("infinity", LAST),
    ("-infinity", FIRST),
    ("10000-01-01 00:00:00+00", LAST),
    ("294276-12-31 23:59:59+00", LAST),
    ("0044-03-15 12:00:00+00 BC", FIRST),
    ("4713-01-02 00:00:00+00 BC", FIRST),
    ("9999-12-31 23:59:59.999999+00", LAST),
    ("0001-01-01 00:00:00+00", FIRST),
    ("2026-01-31 12:00:00.25+02", "2026-01-31T10:00:00.250000Z"),
]
COLUMNS = "created_at", "run_at", "started_at", "finished_at"


async def test_a_time_that_json_cannot_say_is_shown_as_the_nearest_that_it_can(store: Store) -> None:
    letters = [await dead(store) for _ in TIMES]
    for letter, (written, _) in zip(letters, TIMES, strict=True):
        times = ", ".join(f"{column} = '{written}'" for column in COLUMNS)
        await alter(store, f"jobs SET {times} WHERE id", letter)
        await alter(store, f"attempts SET started_at = '{written}', finished_at = '{written}' WHERE job_id", letter)
    all_jobs, all_letters = await store.page(None, None, None, 99), await store.dead_page(None, None, 99)
    for page in all_jobs.jobs, all_letters.jobs:
        assert [job.id for job in page] == [id_text(letter) for letter in reversed(letters)]
        for job, (_, shown) in zip(_said(page), reversed(TIMES), strict=True):
            assert {job[column] for column in COLUMNS} == {shown}
    for letter, (_, shown) in zip(letters, TIMES, strict=True):
        job = _said(await store.job(letter))
        assert {job[column] for column in COLUMNS} == {shown}
        assert {job["attempts"][0][column] for column in COLUMNS[2:]} == {shown}


async def test_such_times_stop_neither_figures_nor_keepers(store: Store, stream: Stream) -> None:
    [well] = await submitted(store)
    for written, _ in TIMES:
        worker, [job] = await live_worker(store), await submitted(store)
        await alter(store, f"jobs SET run_at = '{written}', reconcile_at = '-infinity' WHERE id", job)
        await alter(store, f"workers SET started_at = '{written}' WHERE id", worker)
    await alter(store, "jobs SET reconcile_at = '-infinity' WHERE id", well)
    assert all(0 <= worker.age_seconds <= 1e9 for worker in await store.workers())
    live = await store.live_counts(99)
    assert (live.due + live.waiting, live.oldest_due_seconds) == (len(TIMES) + 1, 1e9)
    assert await store.starved_seconds() == 1e9
    for written, _ in TIMES:
        await store.postgres.fetch(f"UPDATE scheduler.workers SET expires_at = '{written}'")
        assert len(await store.leases()) == len(TIMES)
    await Reconciler(store, stream).tick()
    assert await value(store, "reconcile_at > '-infinity'", well)
    assert await stream.length() >= 1


def _said(what: Any) -> Any:
    return json.loads(msgspec.json.encode(what))


REPORTS: list[tuple[str, dict[str, int]]] = [
    ("[]", {}),
    ('{"completed": "many"}', {}),
    ('{"completed": 1e999}', {}),
    (f'{{"completed": {10**30}}}', {}),
    ('{"completed": "\\u0000"}', {}),
    ('{"completed": "\\ud800"}', {}),
    ("[" * 2_000 + "]" * 2_000, {}),
    ('{"completed": 3}', {"completed": 3}),
]


async def test_what_a_worker_reports_is_read_or_left_out(store: Store) -> None:
    worker = await live_worker(store)
    for sent, read in REPORTS:
        await store.postgres.fetch("UPDATE scheduler.workers SET counters = %(sent)s::json", {"sent": sent})
        [found] = await store.workers()
        assert (found.id, found.counters) == (id_text(worker), read)
        assert _said(found)


@pytest.fixture
async def ascii_store(database_url: str) -> AsyncIterator[Store]:
    """On a database in SQL_ASCII, which takes any bytes for text."""
    name = urlsplit(database_url).path[1:] + "_ascii"
    url = urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        options = "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        await admin.execute(f"CREATE DATABASE {name} {options}".encode())
        own = Store(Postgres(url, size=2, deadline_seconds=10, name="tests"))
        try:
            await migrate(own.postgres)
            yield own
        finally:
            await own.close()
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_bytes_that_are_no_text_are_shown_with_the_mark_for_that(ascii_store: Store) -> None:
    buried = await dead(ascii_store)
    [other] = await submitted(ascii_store)
    await alter(ascii_store, r"jobs SET error = convert_from(decode('636166e9', 'hex'), 'SQL_ASCII') WHERE id", buried)
    jobs = (await ascii_store.page(None, None, None, 9)).jobs
    assert [job.id for job in jobs] == [id_text(other), id_text(buried)]
    assert jobs[1].error == (await ascii_store.job(buried)).error == "caf\ufffd"


@pytest.mark.e2e
async def test_over_http_such_rows_are_listed_and_can_be_cancelled(cluster: Cluster, store: Store) -> None:
    jobs = await submitted(store, 3)
    await alter(store, "jobs SET run_at = '20000-01-01' WHERE id", jobs[0])
    await alter(store, "jobs SET run_at = 'infinity' WHERE id", jobs[1])
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, trust_env=False) as http:
        page = await http.get("/jobs")
        assert [job["id"] for job in page.json()["jobs"]] == [id_text(job) for job in reversed(jobs)]
        for job in jobs[:2]:
            assert (await http.get(f"/jobs/{id_text(job)}")).json()["run_at"] == LAST
            assert (await http.post(f"/jobs/{id_text(job)}/cancel")).json()["status"] == "CANCELLED"
        assert (await http.get("/stats")).status_code == 200


@pytest.mark.e2e
async def test_a_redrive_is_no_slower_than_a_thousand_seconds_a_job(cluster: Cluster, store: Store) -> None:
    letters = [await dead(store) for _ in range(3)]
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, trust_env=False) as http:
        for rate in (1e-12, 1e-9, 0.000999):
            refused = await http.post("/dlq/redrive", json={"rate": rate})
            assert (refused.status_code, refused.json()["field"]) == (422, "rate"), rate
        assert len((await http.get("/dlq")).json()["jobs"]) == 3
        sent = await http.post("/dlq/redrive", json={"rate": 0.001})
        assert len(sent.json()["ids"]) == 3
    late = [await value(store, "extract(epoch FROM run_at - now())::float8", letter) for letter in letters]
    assert all(900 < seconds <= 3_000 for seconds in late), late
