"""Real stores: started once a session; a fresh database (cloned from a migrated one) and stream for each test.

Most of it is the plugin that users get.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scheduler.embedded import Stores, embedded
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.testing import StoreUrls
from tests.cluster import ROOT, Cluster

pytest_plugins = ["scheduler.testing.fixtures"]


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with embedded(tmp_path_factory.mktemp("stores"), keep=False) as both:
        yield both


@pytest.fixture(scope="session")
def scheduler_stores(stores: Stores) -> StoreUrls:
    """Never the servers that the environment names: these tests wipe Redis."""
    return StoreUrls(stores.postgres.url, stores.redis.url)


@pytest.fixture
def database_url(scheduler_stack: Cluster) -> str:
    return scheduler_stack.database_url


@pytest.fixture
def cluster(scheduler_stack: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A stack whose processes find handlers beside the tests and in the test's own folder."""
    for folder in (ROOT / "tests", tmp_path):
        monkeypatch.syspath_prepend(folder)
    return scheduler_stack


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
