"""A few PostgreSQL connections with a deadline on everything.

psycopg cannot abandon a query on a silent link: on cancellation it asks the server to cancel and waits on. So the
deadline here shuts the socket down, which ends the wait at once. The server ends what it still runs a second later:
nothing lives on there that nobody waits for. A broken connection is dropped and the next use connects again without
back-off: how long a store stays away is the caller's affair, see `Service`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from struct import pack
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper, Loader
from psycopg.pq import Format
from psycopg.rows import tuple_row

from scheduler.errors import ConfigurationError, Locked, SchedulerError, StoreUnavailable, ValueRefused
from scheduler.facts.facts import STORE_ERRORS, tell

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]

_UUID_OID, _UUID_ARRAY_OID = 2950, 2951
_EPOCH, _MICROSECOND = datetime(2000, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_FIRST_TIME = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST_TIME = (datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC) - _EPOCH) // _MICROSECOND
_CONNECT_SECONDS = 2
_OPTIONS = (
    "-c timezone=UTC -c lock_timeout=5s -c idle_in_transaction_session_timeout=10s"
    r" -c default_transaction_isolation=read\ committed -c default_transaction_read_only=off -c scheduler.options=hold"
)
# What a server is configured to may be stronger, never weaker. Says whether _OPTIONS hold: a pooler may drop them. Some
# systems cannot tell a server that its client is gone, and it refuses to look then. A database in SQL_ASCII takes any
# bytes for text, and refuses to send them as anything else.
_PIN = """
SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                                        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
       set_config('client_connection_check_interval', CASE WHEN version() ~ 'linux' THEN '1s' ELSE '0' END, false),
       set_config('client_encoding', CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END,
                  false),
       coalesce(current_setting('scheduler.options', true), '') = 'hold'"""
_POOLED = (
    "SCHEDULER_DATABASE_URL leads to a pooler that drops the settings of a session, as PgBouncer does in transaction "
    "mode; give the URL of PostgreSQL itself"
)
_UNPREPARED = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege)
_NO_URL = "SCHEDULER_DATABASE_URL is no postgresql://user:password@host:5432/db; in a password @ is %40, / is %2F"
SPARE_SECONDS = 3.0
# The connection is as good as before; the statement is worth another try.
_HARMLESS = (psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable)


class Ids(list[bytes]):
    """A list of raw 16-byte ids that is sent as uuid[]; an array packed by hand costs a tenth of 500 UUID objects."""


class Id(bytes):
    """One raw id, sent as uuid."""


class _IdsDumper(Dumper):
    format = Format.BINARY
    oid = _UUID_ARRAY_OID

    def dump(self, obj: Ids) -> Buffer:
        head = pack("!iiIii", 1, 0, _UUID_OID, len(obj), 1) if obj else pack("!iiI", 0, 0, _UUID_OID)
        return head + b"".join([b"\x00\x00\x00\x10" + raw for raw in obj])


class _IdDumper(Dumper):
    format = Format.BINARY
    oid = _UUID_OID

    def dump(self, obj: Id) -> Buffer:
        return bytes(obj)


class _RawLoader(Loader):
    """uuid and json arrive as the bytes they are; a payload is decoded where one bad value harms one job only."""

    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


class _TimeLoader(Loader):
    """What RFC 3339 cannot say ('infinity', the year 10000, 44 BC) is read as the nearest time that it can."""

    format = Format.BINARY

    def load(self, data: Buffer) -> datetime:
        passed = int.from_bytes(data, "big", signed=True)  # microseconds since 2000
        return _EPOCH + min(max(passed, _FIRST_TIME), _LAST_TIME) * _MICROSECOND


class _LooseTextLoader(Loader):
    """Text of a database in SQL_ASCII, which psycopg would leave bytes."""

    format = Format.BINARY

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="replace")


def register(adapters: AdaptersMap) -> None:
    """Teach a connection how ids, times and JSON travel. No loader fails: one value would cost a page all its rows."""
    adapters.register_dumper(Ids, _IdsDumper)
    adapters.register_dumper(Id, _IdDumper)
    adapters.register_loader("uuid", _RawLoader)
    adapters.register_loader("json", _RawLoader)
    adapters.register_loader("timestamptz", _TimeLoader)


class Postgres:
    """Up to `size` connections, made on demand; each use is bounded by `deadline_seconds`.

    The server ends a statement after `statement_seconds`: less than the deadline, and the connection is kept.
    """

    def __init__(
        self, url: str, *, size: int, deadline_seconds: float, name: str, statement_seconds: float | None = None
    ) -> None:
        if not _is_whole(url):
            raise ConfigurationError(_NO_URL)
        self._url, self._deadline, self._name = url, deadline_seconds, name
        self._options = f"{_OPTIONS} -c statement_timeout={(statement_seconds or deadline_seconds + 1) * 1000:.0f}"
        self._free: list[tuple[Connection, float]] = []  # with when it was used last
        self._slots = asyncio.Semaphore(size)

    async def fetch(self, query: str, parameters: dict[str, Any] | None = None, each: Any = tuple_row) -> list[Any]:
        """Run one statement, which is one transaction; `each` makes the rows. Raises StoreUnavailable, ValueRefused."""
        async with self.use() as connection:
            cursor = connection.cursor(binary=True, row_factory=each)
            await cursor.execute(query, parameters, prepare=True)
            return await cursor.fetchall() if cursor.description else []

    async def change(self, query: str, parameters: dict[str, Any]) -> int:
        """Run one statement and say how many rows it changed."""
        async with self.use() as connection:
            return (await connection.execute(query, parameters, prepare=True, binary=True)).rowcount

    @asynccontextmanager
    async def use(self, deadline_seconds: float | None = None) -> AsyncIterator[Connection]:
        """A connection for the block. Raises StoreUnavailable after the deadline, ValueRefused, ConfigurationError."""
        deadline = deadline_seconds or self._deadline
        try:
            async with asyncio.timeout(deadline):
                await self._slots.acquire()
        except TimeoutError as error:
            raise StoreUnavailable("PostgreSQL", f"all connections busy for {deadline} s") from error
        try:
            async with self._bounded(deadline) as connection:
                yield connection
        finally:
            self._slots.release()

    @asynccontextmanager
    async def _bounded(self, deadline: float) -> AsyncIterator[Connection]:
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        connection: Connection | None = None
        watchdog: asyncio.TimerHandle | None = None
        healthy = False
        try:
            connection = await self._take(until)
            watchdog = loop.call_at(until, _sever, connection)
            yield connection
            healthy = True
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, psycopg.Rollback) as error:
            # A bare Rollback gets here when the link broke while it was being carried out.
            tell(STORE_ERRORS)
            healthy = isinstance(error, _HARMLESS)
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                self._drop_unused_since(loop.time())  # all of them lead to a server that is no primary any more
            if "unsupported startup parameter" in str(error):
                raise ConfigurationError(_POOLED) from error
            reason = f"no answer in {deadline} s" if loop.time() >= until else _first_line(error)
            kind = Locked if isinstance(error, psycopg.errors.LockNotAvailable) else StoreUnavailable
            raise kind("PostgreSQL", reason) from error
        except _UNPREPARED as error:
            healthy = True
            raise _unprepared(error) from error
        except psycopg.DataError as error:
            healthy = True
            raise ValueRefused(_first_line(error).replace("\x00", "")) from error
        except psycopg.Error:
            healthy = True
            raise
        finally:
            if watchdog:
                watchdog.cancel()
            if connection and healthy and not connection.closed:
                self._free.append((connection, loop.time()))
                self._drop_unused_since(loop.time() - SPARE_SECONDS, keep=1)
            elif connection:
                connection.pgconn.finish()

    def _drop_unused_since(self, then: float, keep: int = 0) -> None:
        while len(self._free) > keep and self._free[0][1] <= then:
            connection, _ = self._free.pop(0)
            connection.pgconn.finish()

    async def _take(self, until: float) -> Connection:
        while self._free:
            connection, _ = self._free.pop()
            if not connection.closed:
                return connection
        try:
            async with asyncio.timeout_at(until):
                connection = await psycopg.AsyncConnection.connect(
                    self._url,
                    autocommit=True,
                    connect_timeout=_CONNECT_SECONDS,
                    application_name=self._name,
                    options=self._options,
                )
                await _pin(connection)
        except TimeoutError as error:
            raise psycopg.OperationalError("no connection in time") from error
        register(connection.adapters)
        if connection.info.encoding == "ascii":
            connection.adapters.register_loader("text", _LooseTextLoader)
        return connection

    async def require_writable(self) -> None:
        """Raises StoreUnavailable when the server does not answer, or takes no writes."""
        query = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"
        if (await self.fetch(query))[0][0]:
            raise StoreUnavailable("PostgreSQL", "read-only: a standby, or read-only by its configuration")

    async def close(self) -> None:
        """Close what is idle."""
        while self._free:
            await self._free.pop()[0].close()


async def _pin(connection: Connection) -> None:
    """Raises ConfigurationError when the session does not keep its settings."""
    holds = False
    try:
        *_, holds = (await (await connection.execute(_PIN.encode())).fetchall())[0]
    finally:
        if not holds:
            connection.pgconn.finish()
    if not holds:
        raise ConfigurationError(_POOLED)


def _sever(connection: Connection) -> None:
    """End every wait on this connection now: shut its socket down under libpq's feet, without a descriptor more."""
    if connection.closed:
        return
    own = socket.socket(fileno=connection.fileno())
    with suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)
    own.detach()


def _unprepared(error: psycopg.Error) -> SchedulerError:
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        remedy = "run `scheduler migrate` as the owner of the database, else grant what docs/deploying.md lists"
        return ConfigurationError(f"the role of SCHEDULER_DATABASE_URL lacks a right: {_first_line(error)}; {remedy}")
    return StoreUnavailable("PostgreSQL", "the schema is not there yet: `scheduler migrate` makes it")


def _is_whole(url: str) -> bool:
    """Whether no part of a password can pass for a host or a port, which errors show; nor does this show any."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return False
    hosts, ports = str(parts.get("host", "")).split(","), str(parts.get("port", "")).split(",")
    return not any("@" in host[1:] for host in hosts) and all(port.isdigit() or not port for port in ports)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
