"""PostgreSQL, Redis and Toxiproxy for experiments: started once, used by one stack after another.

Each stack that shares them gets a database of its own, cloned from a migrated one, and an empty Redis. A server that an
experiment left dead is started again for the next.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg
import redis

from chaos.errors import StackFailed
from chaos.faults.toxiproxy import Toxiproxy
from chaos.rack.toxiproxy_server import ToxiproxyServer
from scheduler.embedded import ServerFailed, Stores, embedded

TEMPLATE = "chaos_template"


class Started:
    """A context manager: `_start` on entry; however it ends, what was put on `_ended` is undone, newest first."""

    def __init__(self) -> None:
        self._ended = ExitStack()

    def _start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._start()
        except ServerFailed as error:
            self._ended.close()
            raise StackFailed(str(error)) from error
        except BaseException:
            self._ended.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.close()


class Servers(Started):
    """`data_dir` None is a temporary folder; another one keeps its data. `toxiproxy_port` 0: a free one, None: none."""

    def __init__(self, data_dir: Path | None = None, *, toxiproxy_port: int | None = 0) -> None:
        super().__init__()
        self._data_dir, self._port = data_dir, toxiproxy_port
        self._numbers = itertools.count(1)
        self._database: str | None = None
        self._stores: Stores | None = None
        self._toxiproxy: Toxiproxy | None = None

    def _start(self) -> None:
        data_dir = self._data_dir or self._temporary()
        self._stores = self._ended.enter_context(embedded(data_dir, keep=self._data_dir is not None))
        if self._port is None:
            return
        server = ToxiproxyServer(data_dir, port=self._port)
        self._ended.callback(server.erase)
        server.start()
        self._toxiproxy = Toxiproxy(port=server.port)

    def _temporary(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="chaos-"))
        self._ended.callback(shutil.rmtree, path, ignore_errors=True)
        return path

    @property
    def stores(self) -> Stores:
        """PostgreSQL and Redis. Raises StackFailed before they are started."""
        if self._stores is None:
            raise StackFailed("the servers are not started")
        return self._stores

    @property
    def toxiproxy(self) -> Toxiproxy:
        """Raises StackFailed when there is none."""
        if self._toxiproxy is None:
            raise StackFailed("Toxiproxy is not started")
        return self._toxiproxy

    def database(self, prepare: Callable[[str], None]) -> str:
        """The URL of a database for the next stack, prepared and with nothing else in it, and Redis emptied.

        Where data is kept it is the same one every time, and nothing is emptied.
        """
        if self._data_dir is not None:
            prepare(self.stores.postgres.url)
            return self.stores.postgres.url
        self._revive()
        with redis.Redis.from_url(self.stores.redis.url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.flushall()
        if self._database is None:
            self._execute(f"CREATE DATABASE {TEMPLATE}")
            prepare(self._url(TEMPLATE))
        else:
            self._execute(f"DROP DATABASE IF EXISTS {self._database} WITH (FORCE)")
        self._database = f"chaos_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {self._database} TEMPLATE {TEMPLATE}")
        return self._url(self._database)

    def _revive(self) -> None:
        try:
            for server in (self.stores.postgres, self.stores.redis):
                server.start()
        except ServerFailed as error:
            raise StackFailed(str(error)) from error

    def _url(self, database: str) -> str:
        return self.stores.postgres.url.rpartition("/")[0] + "/" + database

    def _execute(self, statement: str) -> None:
        try:
            with psycopg.connect(self.stores.postgres.url, autocommit=True, connect_timeout=5) as connection:
                connection.execute(statement.encode())
        except psycopg.Error as error:
            raise StackFailed(f"{statement}: {str(error).strip()}") from error
