"""Real stores: started once a session; a fresh database (cloned from a migrated one) and stream for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from scheduler.embedded import Stores, embedded
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store, migrate
from scheduler.storage.stream import Stream
from tests.cluster import Cluster

_numbers = itertools.count()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with embedded(tmp_path_factory.mktemp("stores"), keep=False) as both:
        yield both


def _admin(stores: Stores) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(stores.postgres.url, autocommit=True, connect_timeout=5)


def _database_url(stores: Stores, name: str) -> str:
    return stores.postgres.url.rsplit("/", 1)[0] + "/" + name


@pytest.fixture(scope="session")
def template(stores: Stores) -> str:
    """A database with the schema and nothing else."""
    with _admin(stores) as connection:
        connection.execute("CREATE DATABASE template_scheduler")

    async def make() -> None:
        postgres = Postgres(_database_url(stores, "template_scheduler"), size=1, deadline_seconds=30, name="tests")
        await migrate(postgres)
        await postgres.close()

    asyncio.run(make())
    return "template_scheduler"


@pytest.fixture
def database_url(stores: Stores, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with _admin(stores) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        yield _database_url(stores, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def cluster(stores: Stores, database_url: str, tmp_path: Path) -> Iterator[Cluster]:
    own = Cluster(database_url, stores.redis.url, tmp_path)
    try:
        yield own
    finally:
        own.stop()
        with own.redis() as client:
            client.flushall()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    own = Store(Postgres(database_url, size=4, deadline_seconds=5, name="tests"))
    yield own
    await own.close()


@pytest.fixture
async def stream(cluster: Cluster) -> AsyncIterator[Stream]:
    own = Stream(cluster.redis_url, stream=cluster.stream, group="workers", deadline_seconds=5, name="tests")
    await own.ensure_group()
    yield own
    await own.close()
