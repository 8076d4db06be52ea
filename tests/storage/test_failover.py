"""Another server behind the same address, and servers that take no writes: connections leave, /readyz says so."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest
import redis

from scheduler.embedded import Postgres as EmbeddedPostgres
from scheduler.embedded import Redis
from scheduler.errors import StoreUnavailable
from scheduler.storage.postgres import Postgres
from scheduler.storage.stream import Stream
from tests.cluster import Cluster, eventually
from tests.storage.replies.links import linked

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def pool(url: str, name: str = "tests") -> AsyncIterator[Postgres]:
    own = Postgres(url, size=3, deadline_seconds=5, name=name)
    try:
        yield own
    finally:
        await own.close()


@pytest.fixture
def pair(tmp_path: Path, cluster: Cluster) -> Iterator[tuple[Redis, Redis]]:
    """Two Redis servers of this test's own, ended after the processes of its stack."""
    servers, usual = (Redis(tmp_path / "one"), Redis(tmp_path / "two")), cluster.redis_url
    try:
        servers[0].start()
        shutil.copytree(servers[0].folder, servers[1].folder)  # the same passwords
        yield servers[0], servers[1].start()
    finally:
        cluster.crew.end()
        cluster.redis_url = usual
        for server in servers:
            server.erase()


@pytest.mark.e2e
async def test_jobs_flow_again_after_a_failover_of_redis_behind_one_address(
    cluster: Cluster, pair: tuple[Redis, Redis]
) -> None:
    old, new = pair
    async with linked(old.url) as (link, url):
        cluster.redis_url = url
        cluster.url = await cluster.api()
        await cluster.worker()
        async with cluster.client() as client:
            before = [await client.submit("NOOP", {}) for _ in range(20)]
            assert {(await client.get(job["id"], wait=10))["status"] for job in before} == {"COMPLETED"}
            link._target = ("127.0.0.1", new.port)  # who connects from now on reaches the new primary
            with redis.Redis.from_url(old.url) as demoted:
                demoted.replicaof("127.0.0.1", new.port)
            after = [await client.submit("NOOP", {}) for _ in range(20)]
            assert {(await client.get(job["id"], wait=20))["status"] for job in after} == {"COMPLETED"}
        async with httpx.AsyncClient(base_url=cluster.url, trust_env=False) as http:
            await eventually(lambda: _ready(http), within=5, until=lambda found: found[0] == 200)
        cluster.redis_url = new.url
        await cluster.drained()


async def test_a_server_that_refuses_writes_is_left(pair: tuple[Redis, Redis]) -> None:
    server, _ = pair
    stream = Stream(server.url, stream="s", group="g", deadline_seconds=2, name="leaving")
    with redis.Redis.from_url(server.url) as admin:

        def connected() -> set[str]:
            return {each["id"] for each in admin.client_list() if each["name"] == "leaving"}

        await stream.ensure_group()
        first = connected()
        admin.config_set("min-replicas-to-write", 1)
        with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
            await stream.require_writable()
        await eventually(connected, until=lambda found: not found)
        admin.config_set("min-replicas-to-write", 0)
        await stream.require_writable()
        assert not connected() & first
    await stream.close()


async def _ready(http: httpx.AsyncClient) -> tuple[int, dict[str, str]]:
    answer = await http.get("/readyz")
    return answer.status_code, answer.json()


@pytest.mark.e2e
async def test_readyz_names_a_store_that_takes_no_writes_and_sixty_at_once_are_well(
    cluster: Cluster, pair: tuple[Redis, Redis]
) -> None:
    server, other = pair
    cluster.redis_url = server.url
    operator = {"authorization": "Bearer one"}
    url = await cluster.api(api_keys="one")
    async with httpx.AsyncClient(base_url=url, headers=operator, timeout=30, trust_env=False) as http:
        answers = await asyncio.gather(*(_ready(http) for _ in range(60)))
        assert {code for code, _ in answers} == {200}
        with redis.Redis.from_url(server.url) as admin:
            admin.config_set("maxmemory", 1)
            found = await eventually(lambda: _ready(http), within=5, until=lambda found: found[0] == 503)
            assert "maxmemory" in found[1]["redis"]
            admin.config_set("maxmemory", 0)
            await eventually(lambda: _ready(http), within=5, until=lambda found: found[0] == 200)
            admin.replicaof("127.0.0.1", other.port)
            found = await eventually(lambda: _ready(http), within=5, until=lambda found: found[0] == 503)
            assert "read only" in found[1]["redis"]


class Standby(EmbeddedPostgres):
    """A server that follows nobody, once `standby.signal` is there."""

    def is_ready(self, pid: int) -> bool:
        return "standby" in "".join(self._pid_file_lines()[7:]) or super().is_ready(pid)


async def test_a_postgresql_that_takes_no_writes_is_not_ready(tmp_path: Path) -> None:
    server = Standby(tmp_path)
    try:
        async with pool(server.start().url) as postgres:
            await postgres.require_writable()
        server.stop()
        (server.folder / "standby.signal").touch()
        async with pool(server.start().url) as postgres:
            with pytest.raises(StoreUnavailable, match="read-only"):
                await postgres.require_writable()
    finally:
        server.erase()


async def test_spare_connections_are_closed_and_all_when_the_server_takes_no_writes_any_more(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.storage.postgres.SPARE_SECONDS", 0.2)
    count = "SELECT pid FROM pg_stat_activity WHERE application_name = 'spare'"
    async with pool(database_url, "spare") as postgres:

        async def three() -> set[tuple[int]]:
            await asyncio.gather(*(postgres.fetch("SELECT pg_sleep(0.1)") for _ in range(3)))
            return set(await postgres.fetch(count))

        assert len(await three()) == 3
        await eventually(lambda: postgres.fetch(count), within=5, until=lambda rows: len(rows) == 1)
        before = await three()
        with pytest.raises(StoreUnavailable, match="read-only"):
            await _write_in_vain(postgres)
        assert not before & await three()


async def _write_in_vain(postgres: Postgres) -> None:
    async with postgres.use() as connection, connection.transaction():
        await connection.execute("SET TRANSACTION READ ONLY")
        await connection.execute("DELETE FROM scheduler.workers")


async def test_a_cancellation_that_redis_py_swallows_is_heard_all_the_same(stream: Stream) -> None:
    """Whichever turn of the loop it comes in."""
    for turns in range(12):
        task = asyncio.ensure_future(stream.ack([b"1-1"]))
        for _ in range(turns):
            await asyncio.sleep(0)
        was_done = task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert was_done or task.cancelled(), f"after {turns} turns"
