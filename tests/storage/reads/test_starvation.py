"""Whoever looks keeps nobody from submitting, and leaves nothing behind in the server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import psycopg
import pytest

from scheduler.errors import StoreUnavailable
from scheduler.jobs.job import id_bytes
from scheduler.runtime import API_CONNECTIONS, ASKED_CONNECTIONS
from scheduler.storage import store as store_module
from scheduler.storage.postgres import Postgres
from scheduler.storage.rows import Looked
from scheduler.storage.store import Store
from tests.cluster import Cluster, eventually
from tests.storage.factory import dead, new_job, submitted

READERS, READS_EACH, SUBMITTED = 32, 3, 60
OLD_ROWS = 300_000
_OLD_ID = "(lpad(to_hex(1700000000000 + n), 12, '0') || '7000' || substr(md5(n::text), 1, 16))::uuid"
FILL = f"""
INSERT INTO scheduler.jobs (id, type, payload, max_attempts, status, created_at, finished_at)
SELECT {_OLD_ID}, CASE n WHEN 1 THEN 'RARE' ELSE 'OLD' END, '{{}}', 4, 'COMPLETED', now() - interval '1 day', now()
FROM generate_series(1, {OLD_ROWS}) AS n"""
BACKENDS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'scheduler-api'"""


class Crowd:
    """Clients that read again and again, and one that submits one job after the other while they do."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.read: Counter[int] = Counter()
        self.submitted: Counter[int] = Counter()
        self.most_backends = 0

    async def against(self, path: str) -> None:
        limits = httpx.Limits(max_connections=READERS + 1)
        async with httpx.AsyncClient(base_url=self._cluster.url, timeout=60, limits=limits, trust_env=False) as http:
            reading = asyncio.gather(*(self._read(http, path) for _ in range(READERS)))
            counting = asyncio.ensure_future(self._count_backends())
            while not reading.done():
                answer = await http.post("/jobs", json={"type": "NOOP", "payload": {}})
                self.submitted[answer.status_code] += 1
            counting.cancel()
            await reading

    async def _count_backends(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._cluster.database_url, autocommit=True) as observer:
            while True:
                [(count,)] = await (await observer.execute(BACKENDS)).fetchall()
                self.most_backends = max(self.most_backends, count)
                await asyncio.sleep(0.05)

    async def _read(self, http: httpx.AsyncClient, path: str) -> None:
        for _ in range(READS_EACH):
            self.read[(await http.get(path)).status_code] += 1


@pytest.mark.e2e
async def test_who_waits_for_a_locked_table_keeps_no_submission_waiting(cluster: Cluster) -> None:
    await cluster.api(store_deadline_seconds=1)
    crowd = Crowd(cluster)
    async with await psycopg.AsyncConnection.connect(cluster.database_url) as admin:
        await admin.execute("LOCK TABLE scheduler.dead_letters IN ACCESS EXCLUSIVE MODE")
        await crowd.against("/dlq?type=NOSUCH")
        await admin.rollback()
    assert crowd.read == {503: READERS * READS_EACH}
    assert set(crowd.submitted) == {202}
    assert crowd.submitted[202] >= SUBMITTED, crowd.submitted
    assert crowd.most_backends <= API_CONNECTIONS + ASKED_CONNECTIONS


async def test_what_clients_ask_waits_in_connections_of_its_own(store: Store, database_url: str) -> None:
    intake, asked = (Postgres(database_url, size=1, deadline_seconds=20, name="tests") for _ in range(2))
    own, waits = Store(intake, asked), "SELECT pid FROM pg_locks WHERE NOT granted"
    async with await psycopg.AsyncConnection.connect(database_url) as admin:
        await admin.execute("LOCK TABLE scheduler.dead_letters IN ACCESS EXCLUSIVE MODE")
        looking = asyncio.ensure_future(own.dead_page(None, None, 9))
        await eventually(lambda: store.postgres.fetch(waits), of="a look that waits")
        assert await own.insert([new_job()]) == 1
        assert not looking.done()
        await admin.rollback()
    assert (await looking).jobs == []
    await own.close()


@pytest.mark.e2e
async def test_a_filter_that_no_job_meets_is_bounded_and_keeps_no_submission_waiting(cluster: Cluster) -> None:
    async with await psycopg.AsyncConnection.connect(cluster.database_url, autocommit=True) as admin:
        await admin.execute(FILL.encode())
    await cluster.api(store_deadline_seconds=1)
    crowd = Crowd(cluster)
    await crowd.against("/jobs?type=NOSUCH&status=CANCELLED")
    assert crowd.read == {200: READERS * READS_EACH}
    assert set(crowd.submitted) == {202}
    assert crowd.most_backends <= API_CONNECTIONS + ASKED_CONNECTIONS
    async with httpx.AsyncClient(base_url=cluster.url, timeout=30, trust_env=False) as http:
        found, asked = list[str](), {"type": "RARE"}
        while True:
            page = (await http.get("/jobs", params=asked)).json()
            found += [job["type"] for job in page["jobs"]]
            if page["next_cursor"] is None:
                break
            asked["cursor"] = page["next_cursor"]
        assert found == ["RARE"], "the oldest of all"


async def pages(look: Callable[[bytes | None], Awaitable[Looked]]) -> list[Looked]:
    """All of them, one after the other, as their cursors lead."""
    found = [await look(None)]
    while found[-1].stopped_at:
        found.append(await look(found[-1].stopped_at))
    return found


async def test_a_look_that_takes_too_long_says_where_it_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [(await submitted(store, type="A" if n in (0, 1, 9, 13) else "B"))[0] for n in range(17)]
    letters = [await dead(store, type="A" if n in (2, 8) else "B") for n in range(9)]
    monkeypatch.setattr(store_module, "LOOK_ROWS", 4)
    for seconds, looks, dead_looks in ((0.0, 6, 2), (60.0, 1, 1)):
        monkeypatch.setattr(store_module, "LOOK_SECONDS", seconds)
        found = await pages(lambda before: store.page("PENDING", "A", before, 100))
        assert len(found) == looks
        assert [id_bytes(job.id) for page in found for job in page.jobs] == [jobs[n] for n in (13, 9, 1, 0)]
        found = await pages(lambda before: store.dead_page("A", before, 100))
        assert len(found) == dead_looks
        assert [id_bytes(job.id) for page in found for job in page.jobs] == [letters[n] for n in (8, 2)]
    assert len((await store.page(None, "A", None, 3)).jobs) == 3
    assert len((await store.page(None, None, None, 100)).jobs) == len(jobs) + len(letters), "no filter, no bound"


async def test_a_statement_that_ends_before_its_deadline_costs_no_connection(database_url: str) -> None:
    postgres = Postgres(database_url, size=1, deadline_seconds=10, name="tests", statement_seconds=0.5)
    [(pid,)] = await postgres.fetch("SELECT pg_backend_pid()")
    with pytest.raises(StoreUnavailable, match="statement timeout"):
        await postgres.fetch("SELECT pg_sleep(60)")
    assert await postgres.fetch("SELECT pg_backend_pid()") == [(pid,)]
    await postgres.close()


async def test_what_runs_for_a_client_that_is_gone_is_ended(store: Store, database_url: str) -> None:
    """Also where no statement_timeout does, as in a migration."""
    postgres = Postgres(database_url, size=1, deadline_seconds=5, name="gone")
    with pytest.raises(StoreUnavailable, match=r"no answer in 0\.5 s"):
        await _sleep_without_limit(postgres)
    left = "SELECT pid FROM pg_stat_activity WHERE application_name = 'gone'"
    await eventually(lambda: store.postgres.fetch(left), within=20, until=lambda rows: not rows)


async def _sleep_without_limit(postgres: Postgres) -> None:
    async with postgres.use(0.5) as connection:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("SELECT pg_sleep(600)")
