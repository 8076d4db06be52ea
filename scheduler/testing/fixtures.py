"""The pytest plugin: servers once a session, a stack of its own for each test. Nothing of it is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from scheduler.embedded import Postgres, Redis, Server
from scheduler.runtime import run_migrate
from scheduler.settings import Settings
from scheduler.testing.stack import LOG_TAIL, Stack, StoreUrls


@pytest.fixture(scope="session")
def scheduler_stores() -> Iterator[StoreUrls]:
    """Those of SCHEDULER_TEST_DATABASE_URL and SCHEDULER_TEST_REDIS_URL, or embedded ones in a temporary folder."""
    with _stores() as urls:
        yield urls


@pytest.fixture(scope="session")
def scheduler_template(scheduler_stores: StoreUrls) -> Iterator[str]:
    """The name of a database with the schema and nothing else."""
    with _database(scheduler_stores.database_url, "template1") as url, ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, run_migrate(Settings(database_url=url))).result()  # a loop may run in this one
        yield _name(url)


@pytest.fixture
def scheduler_settings() -> dict[str, Any]:
    """Settings of every process of a stack, such as {"jobs": "shop.handlers"}; override it."""
    return {}


@pytest.fixture
def scheduler_stack(
    scheduler_stores: StoreUrls, scheduler_template: str, scheduler_settings: dict[str, Any], tmp_path: Path
) -> Iterator[Stack]:
    """A fresh database and stream; API and workers start on demand, and everything is ended and dropped afterwards."""
    logs = tmp_path / "scheduler-logs"
    logs.mkdir()
    with _database(scheduler_stores.database_url, scheduler_template) as url:
        stack = Stack(url, scheduler_stores.redis_url, logs, dict(scheduler_settings))
        try:
            yield stack
        finally:
            stack.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails shows what the processes of its stack wrote."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("scheduler_stack")
    if report.failed and isinstance(stack, Stack) and stack.processes:
        report.sections.append(("scheduler processes", stack.log()[-4 * LOG_TAIL :]))
    return report


@contextmanager
def _stores() -> Iterator[StoreUrls]:
    with ExitStack() as ended:
        folder = Path(tempfile.mkdtemp(prefix="scheduler-test-"))
        ended.callback(shutil.rmtree, folder, ignore_errors=True)

        def start(kind: type[Server]) -> str:
            server = kind(folder)
            ended.callback(server.erase)
            return server.start().url

        yield StoreUrls(
            os.environ.get("SCHEDULER_TEST_DATABASE_URL") or start(Postgres),
            os.environ.get("SCHEDULER_TEST_REDIS_URL") or start(Redis),
        )


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    """The URL of a database of its own, copied from `template`."""
    name = f"scheduler_test_{uuid.uuid4().hex[:12]}"
    _execute(server, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        _execute(server, sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _execute(server: str, statement: sql.Composed) -> None:
    with psycopg.connect(server, autocommit=True, connect_timeout=10) as connection:
        connection.execute(statement)


def _name(url: str) -> str:
    return urlsplit(url).path[1:]
