"""The connections: a deadline on everything, foreign errors translated, broken links replaced."""

from __future__ import annotations

import asyncio
import re
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psycopg
import pytest

from scheduler.errors import ConfigurationError, StoreUnavailable, ValueRefused
from scheduler.storage.postgres import Id, Ids, Postgres
from scheduler.storage.stream import connect
from tests.cluster import Cluster, eventually
from tests.storage.factory import new_id
from tests.storage.replies.links import Pooler, linked, silent_server

SLACK = 0.7  # a busy machine
Make = Callable[..., Postgres]
PID = "SELECT pg_backend_pid()"
REFUSAL = "a pooler that drops the settings of a session, .* give the URL of PostgreSQL itself"


@asynccontextmanager
async def pool(url: str, deadline_seconds: float = 5.0, size: int = 2) -> AsyncIterator[Postgres]:
    own = Postgres(url, size=size, deadline_seconds=deadline_seconds, name="tests")
    try:
        yield own
    finally:
        await own.close()


async def test_a_server_that_accepts_and_never_answers_is_given_up_within_the_deadline() -> None:
    with silent_server() as port:
        async with pool(f"postgresql://x@127.0.0.1:{port}/x", deadline_seconds=0.5) as postgres:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="PostgreSQL is out of reach"):
                await postgres.fetch("SELECT 1")
            assert time.monotonic() - began < 0.5 + SLACK


async def test_a_closed_port_is_reported_at_once_with_its_cause() -> None:
    async with pool("postgresql://x@127.0.0.1:1/x") as postgres:
        with pytest.raises(StoreUnavailable, match="refused") as raised:
            await postgres.fetch("SELECT 1")
        assert isinstance(raised.value.__cause__, psycopg.OperationalError)


async def test_a_deadline_holds_where_descriptors_have_run_out(database_url: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with linked(database_url) as (link, url), pool(url, deadline_seconds=0.5) as postgres:
        await postgres.fetch("SELECT 1")
        link.silence()
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
        try:
            async with asyncio.timeout(10):
                with pytest.raises(StoreUnavailable, match=r"no answer in 0\.5 s"):
                    await postgres.fetch("SELECT 1")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_a_link_that_goes_silent_before_a_query_ends_it_within_the_deadline(database_url: str) -> None:
    async with linked(database_url) as (link, url), pool(url, deadline_seconds=0.5) as postgres:
        await postgres.fetch("SELECT 1")
        link.silence()
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"no answer in 0\.5 s"):
            await postgres.fetch("SELECT 1")
        assert 0.5 <= time.monotonic() - began < 0.5 + SLACK
        link.heal()
        assert await postgres.fetch("SELECT 2") == [(2,)]


async def test_a_link_that_goes_silent_in_the_middle_of_a_query_ends_it_within_the_deadline(database_url: str) -> None:
    async with (
        linked(database_url) as (link, url),
        pool(url, deadline_seconds=0.7) as postgres,
        pool(database_url) as observer,
    ):
        began = time.monotonic()
        query = asyncio.ensure_future(postgres.fetch("SELECT pg_sleep(0.3)"))
        asking = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep' AND state = 'active'"

        async def under_way() -> bool:
            return bool((await observer.fetch(asking))[0][0])

        await eventually(under_way, every=0.01)
        link.silence()
        with pytest.raises(StoreUnavailable, match=r"no answer in 0\.7 s"):
            await query
        assert time.monotonic() - began < 0.7 + SLACK


async def test_the_deadline_of_one_use_does_not_end_the_next_on_the_same_connection(database_url: str) -> None:
    async with pool(database_url, size=1) as postgres:
        async with postgres.use(deadline_seconds=0.3) as connection:
            pid = connection.info.backend_pid
        assert await postgres.fetch("SELECT pg_backend_pid(), pg_sleep(0.5)::text") == [(pid, "")]


async def test_waiting_for_a_free_connection_has_the_deadline_too(database_url: str) -> None:
    async with pool(database_url, deadline_seconds=0.3, size=1) as postgres, postgres.use(deadline_seconds=5):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"all connections busy for 0\.3 s"):
            await postgres.fetch("SELECT 1")
        assert 0.3 <= time.monotonic() - began < 0.3 + SLACK


@pytest.mark.parametrize(
    ("query", "value"),
    [("SELECT %(v)s::text", "a\x00b"), ("SELECT %(v)s::text::int", "seven"), ("SELECT (%(v)s::text)::json", "{")],
)
async def test_a_value_that_cannot_be_stored_is_refused_and_the_connection_kept(
    database_url: str, query: str, value: str
) -> None:
    async with pool(database_url, size=1) as postgres:
        [(pid,)] = await postgres.fetch(PID)
        with pytest.raises(ValueRefused, match="PostgreSQL cannot store a value"):
            await postgres.fetch(query, {"v": value})
        assert await postgres.fetch(PID) == [(pid,)]


async def test_a_connection_that_the_server_ended_fails_once_and_is_replaced(database_url: str) -> None:
    async with pool(database_url, size=1) as postgres, pool(database_url) as killer:
        [(pid,)] = await postgres.fetch(PID)
        await killer.fetch("SELECT pg_terminate_backend(%(pid)s, 5000)", {"pid": pid})
        with pytest.raises(StoreUnavailable):
            await postgres.fetch("SELECT 1")
        assert await postgres.fetch(PID) != [(pid,)]


async def test_a_statement_that_the_server_ended_is_unavailability_not_a_crash(database_url: str) -> None:
    async with pool(database_url) as postgres, pool(database_url) as killer:
        query = asyncio.ensure_future(postgres.fetch("SELECT pg_sleep(4)"))
        ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'"

        async def ended() -> bool:
            return bool(await killer.fetch(ending))

        await eventually(ended, every=0.01)
        with pytest.raises(StoreUnavailable):
            await query


async def test_a_database_without_the_schema_says_what_makes_it(database_url: str) -> None:
    async with pool(database_url) as postgres:
        await postgres.fetch("DROP SCHEMA scheduler CASCADE")
        with pytest.raises(StoreUnavailable, match="`scheduler migrate` makes it"):
            await postgres.fetch("SELECT * FROM scheduler.jobs")


async def test_an_error_of_ours_is_neither_hidden_nor_does_it_cost_the_connection(database_url: str) -> None:
    async with pool(database_url, size=1) as postgres:
        [(pid,)] = await postgres.fetch(PID)
        with pytest.raises(psycopg.errors.SyntaxError):
            await postgres.fetch("SELEKT")
        assert await postgres.fetch(PID) == [(pid,)]


async def test_ids_travel_as_the_raw_bytes_they_are(database_url: str) -> None:
    ids = [new_id() for _ in range(3)]
    async with pool(database_url) as postgres:
        rows = await postgres.fetch("SELECT unnest(%(ids)s::uuid[])", {"ids": Ids(ids)})
        assert [row[0] for row in rows] == ids
        assert await postgres.fetch("SELECT cardinality(%(ids)s::uuid[])", {"ids": Ids()}) == [(0,)]
        assert await postgres.fetch("SELECT %(id)s::uuid", {"id": Id(ids[0])}) == [(ids[0],)]


def test_a_url_that_is_none_is_a_configuration_error_that_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="SCHEDULER_DATABASE_URL"):
        Postgres("nonsense", size=1, deadline_seconds=1, name="tests")


async def test_the_servers_own_limits_bound_what_a_lost_client_can_hold(cluster: Cluster) -> None:
    async with pool(cluster.database_url) as postgres:
        names = (
            *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
            "client_connection_check_interval",
        )
        rows = await postgres.fetch("SELECT setting::int FROM pg_settings WHERE name = ANY(%(n)s)", {"n": list(names)})
        assert all(0 < row[0] <= 60_000 for row in rows)
        assert len(rows) == len(names)


async def test_what_a_database_or_role_is_set_to_does_not_make_202_a_lie(database_url: str) -> None:
    name = urlsplit(database_url).path[1:]
    given = {"synchronous_commit": "off", "default_transaction_isolation": "'serializable'"}
    query = "SELECT current_setting('synchronous_commit'), current_setting('transaction_isolation')"
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
        for setting, value in {**given, "default_transaction_read_only": "on"}.items():
            await admin.execute(f"ALTER DATABASE {name} SET {setting} = {value}".encode())
        async with pool(database_url) as postgres:
            assert await postgres.fetch(query) == [("on", "read committed")]
            await postgres.require_writable()
        await admin.execute(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply".encode())
        async with pool(database_url) as postgres:
            assert await postgres.fetch(query) == [("remote_apply", "read committed")]


async def test_a_pooler_that_drops_the_settings_of_a_session_is_refused(database_url: str) -> None:
    async with linked(database_url) as (_, url), pool(url) as postgres:
        await postgres.require_writable()
    async with linked(database_url, Pooler) as (_, url), pool(url) as postgres:
        for _ in range(3):
            with pytest.raises(ConfigurationError, match=REFUSAL):
                await postgres.fetch("SELECT 1")
    async with pool(database_url) as postgres:
        left = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tests' AND pid <> pg_backend_pid()"
        await eventually(lambda: postgres.fetch(left), until=lambda rows: not rows)


@pytest.mark.parametrize(
    "words", ["unsupported startup parameter: options", "unsupported startup parameter in options"]
)
async def test_a_pooler_that_refuses_the_settings_of_a_session_is_refused(words: str) -> None:
    """In the words of PgBouncer before 1.20, and since."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        body = f"SFATAL\0C08P01\0M{words}\0\0".encode()
        writer.write(b"E" + (len(body) + 4).to_bytes(4, "big") + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with pool(f"postgresql://x@127.0.0.1:{port}/x?sslmode=disable&gssencmode=disable") as postgres:
            with pytest.raises(ConfigurationError, match=REFUSAL):
                await postgres.fetch("SELECT 1")


@pytest.mark.e2e
async def test_no_process_starts_behind_such_a_pooler(cluster: Cluster) -> None:
    async with linked(cluster.database_url, Pooler) as (_, url):
        for command in ("migrate", "worker", "api"):
            process = cluster.start(command, database_url=url, port=0)
            assert await asyncio.to_thread(process.wait, 30) == 2, command
    assert len(re.findall(REFUSAL, cluster.log())) >= 3


@pytest.mark.parametrize("url", ["postgres:/user:SECRET@host/x", "postgresql//user:SECRET@host/x"])
def test_a_wrong_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Postgres(url, size=1, deadline_seconds=1, name="tests")
    assert "SECRET" not in str(raised.value)
    with pytest.raises(ConfigurationError) as raised:
        connect("redis://user:SE/CRET@host:SECRET/0", deadline_seconds=1, name="tests")
    assert "SECRET" not in str(raised.value)
