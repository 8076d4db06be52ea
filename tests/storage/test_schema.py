"""The schema: each step of a migration once, the bounds it sets, and who must not notice that it runs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from scheduler.embedded import Postgres as EmbeddedPostgres
from scheduler.embedded import Stores
from scheduler.embedded.postgres import SETTINGS as SETTINGS_OF_SERVER
from scheduler.errors import ConfigurationError, SchemaUnusable, StoreUnavailable
from scheduler.jobs.job import Outcome
from scheduler.storage import schema
from scheduler.storage.postgres import Postgres
from scheduler.storage.schema import bind, migrate
from scheduler.storage.store import Store
from tests.cluster import ROOT, eventually
from tests.storage.factory import live_worker, new_id, new_job

FIRST = ROOT / "scheduler/storage/migrations/0001_schema.sql"
BIND, VALIDATE = "0002_bounds.bind", "0002_bounds.validate"
LATER = [name for name, _ in schema._steps() if name > VALIDATE]
BEYOND: list[dict[str, Any]] = [
    {"max_attempts": 0},  # these two are bounds of the first migration
    {"timeout_seconds": 0.0},
    {"type": ""},
    {"type": "x" * 201},
    {"idempotency_key": ""},
    {"idempotency_key": "k" * 256},
    {"max_attempts": 1_001},
    {"timeout_seconds": 366 * 86_400 + 1.0},
    {"timeout_seconds": float("nan")},
]


@pytest.fixture
def encoding() -> str:
    return "UTF8"


@pytest.fixture
def empty_database_url(stores: Stores, encoding: str) -> Iterator[str]:
    with psycopg.connect(stores.postgres.url, autocommit=True, connect_timeout=5) as admin:
        admin.execute(f"CREATE DATABASE unmigrated ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
        yield stores.postgres.url.rsplit("/", 1)[0] + "/unmigrated"
        admin.execute("DROP DATABASE unmigrated WITH (FORCE)")


@pytest.fixture
async def pools(empty_database_url: str) -> AsyncIterator[list[Postgres]]:
    own = [Postgres(empty_database_url, size=2, deadline_seconds=5, name="tests") for _ in range(5)]
    yield own
    for one in own:
        await one.close()


@pytest.fixture
async def older(pools: list[Postgres]) -> Store:
    """A database that the release before the bounds has left, with jobs that no door would let in today."""
    await pools[0].fetch("CREATE SCHEMA scheduler")
    await pools[0].fetch(
        "CREATE TABLE scheduler.migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())"
    )
    await pools[0].fetch("INSERT INTO scheduler.migrations (name) VALUES ('0001_schema')")
    async with pools[0].use() as connection:
        await connection.execute(FIRST.read_text().encode(), prepare=False)
    store = Store(pools[0])
    assert await store.insert([new_job(**fields) for fields in BEYOND[2:]]) == 7
    return store


async def test_five_who_migrate_at_the_same_time_apply_each_step_once(pools: list[Postgres]) -> None:
    applied = await asyncio.gather(*(migrate(one) for one in pools))
    assert sorted(itertools.chain(*applied)) == ["0001_schema", BIND, VALIDATE, *LATER]
    assert await migrate(pools[0]) == []
    assert await Store(pools[0]).insert([new_job()]) == 1


async def test_before_migration_every_statement_is_unavailability(pools: list[Postgres]) -> None:
    with pytest.raises(StoreUnavailable, match="scheduler migrate"):
        await Store(pools[0]).insert([new_job()])


async def test_a_run_goes_on_behind_the_step_that_the_one_before_has_finished(
    older: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema._steps()
    monkeypatch.setattr(schema, "_steps", lambda: [*steps[:2], (VALIDATE, "SELECT 1/0")])
    with pytest.raises(SchemaUnusable, match=r"migration 0002_bounds\.validate failed: division by zero"):
        await migrate(older.postgres)
    monkeypatch.undo()
    assert await migrate(older.postgres) == [VALIDATE, *LATER]
    checks = "SELECT convalidated FROM pg_constraint WHERE conname = 'jobs_bounds'"
    assert await older.postgres.fetch(checks) == [(True,)]


@pytest.mark.parametrize("fields", BEYOND)
async def test_what_lies_beyond_a_bound_is_refused_by_the_database_too(store: Store, fields: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        await store.insert([new_job(), new_job(**fields)])


async def test_jobs_that_an_older_release_let_in_are_cancelled_and_claimed_beside_new_ones(older: Store) -> None:
    assert await migrate(older.postgres) == [BIND, VALIDATE, *LATER]
    await older.insert([new_job()])
    ids = [row[0] for row in await older.postgres.fetch("SELECT id FROM scheduler.jobs")]
    assert await older.cancel(ids.pop(0))
    jobs = await older.claim(await live_worker(older), ids)
    assert len(jobs) == 7
    assert (await older.complete([Outcome.complete(job, None) for job in jobs])).lost == []


@pytest.mark.parametrize("encoding", ["SQL_ASCII"])
async def test_a_database_that_counts_bytes_takes_as_many_characters(pools: list[Postgres]) -> None:
    await migrate(pools[0])
    assert await Store(pools[0]).insert([new_job(type="🚀" * 200, idempotency_key="€" * 255)]) == 1


# -- beside readers and writers


async def _awaited(connection: psycopg.AsyncConnection[Any]) -> bool:
    """Whether somebody waits for the whole table."""
    waiting = "mode = 'AccessExclusiveLock' AND NOT granted"
    query = f"SELECT FROM pg_locks WHERE relation = 'scheduler.jobs'::regclass AND {waiting}"
    return await (await connection.execute(query.encode())).fetchone() is not None


async def _insert(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute(
        "INSERT INTO scheduler.jobs (id, type, payload, max_attempts) VALUES (%s, 'NOOP', '{}', 4)",
        (str(new_id().hex()),),
    )


async def test_writers_go_on_while_the_migration_waits_for_a_transaction_that_holds_the_table(
    older: Store, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(schema, "LOCK_TRIES", 1_000)
    options = "-c lock_timeout=2s"
    connect = psycopg.AsyncConnection.connect
    async with (
        await connect(empty_database_url) as reader,
        await connect(empty_database_url, autocommit=True, options=options) as writer,
        await connect(empty_database_url, autocommit=True) as eyes,
    ):
        await reader.execute("SELECT count(*) FROM scheduler.jobs")
        migration = asyncio.create_task(migrate(older.postgres))
        for _ in range(5):
            await eventually(lambda: _awaited(eyes), every=0.005, of="a migration that waits for the table")
            await _insert(writer)
        assert not migration.done()
        await reader.rollback()
        assert await migration == [BIND, VALIDATE, *LATER]


async def test_rows_are_validated_beside_a_transaction_that_writes(
    older: Store, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = schema._steps()
    monkeypatch.setattr(schema, "_steps", lambda: steps[:2])
    assert await migrate(older.postgres) == [BIND]
    monkeypatch.undo()
    async with await psycopg.AsyncConnection.connect(empty_database_url) as writer:
        await _insert(writer)
        assert await migrate(older.postgres) == [VALIDATE, *LATER]
        await _insert(writer)


async def test_a_table_that_stays_locked_ends_the_migration_with_the_remedy(
    older: Store, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(schema, "LOCK_TRIES", 2)
    async with await psycopg.AsyncConnection.connect(empty_database_url) as reader:
        await reader.execute("SELECT count(*) FROM scheduler.jobs")
        with pytest.raises(StoreUnavailable, match="end the transaction that keeps the table locked"):
            await migrate(older.postgres)
    assert await migrate(older.postgres) == [BIND, VALIDATE, *LATER]


# -- whom it refuses


async def test_a_schema_of_a_newer_release_is_refused(pools: list[Postgres]) -> None:
    await migrate(pools[0])
    await pools[0].fetch("INSERT INTO scheduler.migrations (name) VALUES ('9999_future')")
    with pytest.raises(SchemaUnusable, match="a newer release has applied 9999_future"):
        await migrate(pools[0])


async def test_a_role_that_may_only_read_and_write_rows_starts_once_the_schema_is_there(
    pools: list[Postgres], empty_database_url: str
) -> None:
    await pools[0].fetch("DROP ROLE IF EXISTS modest")
    await pools[0].fetch("CREATE ROLE modest LOGIN PASSWORD 'modest'")
    parts = urlsplit(empty_database_url)
    url = parts._replace(netloc=f"modest:modest@{parts.hostname}:{parts.port}").geturl()
    modest = Postgres(url, size=1, deadline_seconds=5, name="tests")
    try:
        with pytest.raises(ConfigurationError, match=r"permission denied for database .*; run `scheduler migrate` as"):
            await migrate(modest)
        await migrate(pools[0])
        with pytest.raises(ConfigurationError, match=r"permission denied for schema scheduler.*docs/deploying"):
            await migrate(modest)
        await pools[0].fetch("GRANT USAGE ON SCHEMA scheduler TO modest")
        with pytest.raises(ConfigurationError, match="permission denied for table migrations"):
            await migrate(modest)
        await pools[0].fetch("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA scheduler TO modest")
        with pytest.raises(ConfigurationError, match=r"GRANT UPDATE, DELETE ON scheduler\.attempts TO modest;"):
            await bind(modest, "s")
        await pools[0].fetch("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA scheduler TO modest")
        assert await migrate(modest) == []
        await bind(modest, "s")
        assert await Store(modest).insert([new_job()]) == 1
    finally:
        await modest.close()
        await pools[0].fetch("DROP OWNED BY modest")
        await pools[0].fetch("DROP ROLE modest")


async def test_a_database_has_one_stream(store: Store) -> None:
    for _ in range(2):
        await bind(store.postgres, "first")
    with pytest.raises(ConfigurationError, match=r"'second', but this database's jobs are on 'first'; .* of its own"):
        await bind(store.postgres, "second")


async def test_a_server_that_forgets_what_it_committed_is_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS_OF_SERVER, "fsync", "off")
        server = EmbeddedPostgres(tmp_path)
        postgres = Postgres(server.start().url, size=1, deadline_seconds=5, name="tests")
    try:
        with pytest.raises(ConfigurationError, match=r"fsync=off: .*; set fsync=on"):
            await migrate(postgres)
    finally:
        await postgres.close()
        server.erase()
