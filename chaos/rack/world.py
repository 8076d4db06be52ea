"""The world that faults act on: a stack, its links, its stores; and which of its workers are at work just now."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from signal import SIGKILL, SIGTERM, Signals

import psycopg
import redis
from psycopg import sql

from chaos.errors import FaultFailed
from chaos.faults.toxiproxy import Toxiproxy
from chaos.rack.stack import Stack
from chaos.record.aim import Aim
from chaos.record.history import Effect
from chaos.record.recorder import Tail
from scheduler.embedded import Server, ServerFailed, until

BUSY_NS = 30_000_000  # a body that has run this long is no longer about to end, whatever its type


class StackWorld:
    """A stack as `chaos.faults.fault.World`; the methods are described there."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._ledger = Tail(stack.folder.effects)
        self._open_since: dict[tuple[int, str, int], int] = {}
        self._holders: dict[str, psycopg.Connection] = {}  # by the key that each holds

    @property
    def toxiproxy(self) -> Toxiproxy:
        """Of the servers that the stack stands on."""
        return self._stack.servers.toxiproxy

    def signal(self, process: Aim, number: Signals) -> int:
        """To a store goes to all its processes: PostgreSQL serves each connection with one."""
        if server := self._server(process):
            return _signal_server(server, number)
        child = self._stack.process(process)
        if not child.alive:
            raise FaultFailed(f"{process} is gone already, with {child.exit_code}; there is nothing to {number.name}")
        if number in {SIGKILL, SIGTERM}:
            self._stack.expect_death(process)
        child.signal(number)
        return child.pid

    def replace(self, process: Aim) -> int:
        """A store comes back with its data; another process is started once the old one has ended."""
        if server := self._server(process):
            try:
                return server.start().pid
            except ServerFailed as error:
                raise FaultFailed(str(error)) from error
        child, seconds = self._stack.process(process), 2 * self._stack.target.stop_seconds
        if not until(lambda: not child.alive, seconds):
            raise FaultFailed(f"{process} did not end within {seconds:g} s of its signal")
        return self._stack.start_process(process)

    def flush_redis(self) -> int:
        """Past every proxy."""
        with self._redis() as client:
            keys = client.dbsize()
            client.flushall()
        return int(keys)

    def tell_redis(self, *words: str) -> str:
        """Past every proxy. Raises FaultFailed when Redis refuses or is gone."""
        try:
            with self._redis() as client:
                return str(client.execute_command(*words))
        except redis.RedisError as error:
            raise FaultFailed(f"Redis, told {' '.join(words)}: {error}") from error

    def spoil_redis(self, nth: int) -> str:
        """As the target lists them, past every proxy; what other garbage still forbids is refused. Or FaultFailed."""
        kinds = self._stack.target.look.garbage
        name = list(kinds)[nth % len(kinds)]
        try:
            with self._redis() as client, client.pipeline(transaction=False) as told:
                for words in kinds[name]:
                    told.execute_command(*words)
                told.execute()
        except redis.ResponseError:
            return f"{name}, refused"
        except redis.RedisError as error:
            raise FaultFailed(f"Redis, told to hold {name}: {error}") from error
        return name

    def age_leases(self, seconds: float) -> int:
        """By the target's own statement, past every proxy. Raises FaultFailed when PostgreSQL is gone."""
        with self._postgres("to age all leases") as connection:
            return connection.execute(self._stack.target.look.age_leases.encode(), {"seconds": seconds}).rowcount

    def hold_key(self, key: str) -> None:
        """By the target's own statement, past every proxy. Raises FaultFailed when PostgreSQL is gone."""
        self.free_key(key)
        with self._postgres(f"to hold {key}", stays=True) as connection:
            self._holders[key] = connection
            connection.autocommit = False
            connection.execute(self._stack.target.look.hold_key.encode(), {"key": key})

    def free_key(self, key: str) -> None:
        """PostgreSQL rolls back what its client leaves."""
        if connection := self._holders.pop(key, None):
            connection.close()

    def configure_postgres(self, name: str, value: str) -> None:
        """The setting ends with the database. Raises FaultFailed when PostgreSQL is gone, or knows no such setting."""
        with self._postgres(f"to set {name} to {value}") as connection:
            database = sql.Identifier(connection.info.dbname)
            words = sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, sql.Identifier(name), sql.Literal(value))
            connection.execute(words)

    def fail_over_redis(self) -> int:
        """Raises FaultFailed where there is no replica, or a server is gone."""
        return self._stack.pair.fail_over()

    def part_redis(self) -> None:
        """Raises FaultFailed where there is no replica, or it is gone."""
        self._stack.pair.part()

    @contextmanager
    def _postgres(self, what: str, *, stays: bool = False) -> Iterator[psycopg.Connection]:
        """A session of our own, whatever the database's settings are by now."""
        options = "-c default_transaction_read_only=off -c statement_timeout=10s"
        connection: psycopg.Connection | None = None
        try:
            connection = psycopg.connect(self._stack.database_url, autocommit=True, connect_timeout=5, options=options)
            yield connection
        except psycopg.Error as error:
            raise FaultFailed(f"PostgreSQL, asked {what}: {error}") from error
        finally:
            if connection and not stays:
                connection.close()

    def _redis(self) -> redis.Redis:
        return redis.Redis.from_url(self._stack.redis_url, socket_timeout=5, socket_connect_timeout=5)

    def await_busy(self, process: Aim, seconds: float) -> bool:
        """By the ledger: a body that began a while ago is still open."""
        pid = self._stack.process(process).pid
        return until(lambda: self._is_busy(pid), seconds)

    def await_point(self, process: Aim, point: str, seconds: float) -> int | None:
        """By what the fault does to the process, or by its log."""
        stack, child = self._stack, self._stack.process(process)
        armed = stack.plan.armed[process, stack.starts(process)]

        def has_happened() -> bool:
            match armed.fault:
                case "kill":
                    return not child.alive
                case "pause":
                    return child.state == "T"
                case _:
                    return stack.target.reply_lost(armed) in stack.log(process).read_text(errors="replace")

        return child.pid if until(has_happened, seconds) else None

    def _server(self, name: Aim) -> Server | None:
        stores = self._stack.servers.stores
        return {"redis": stores.redis, "postgres": stores.postgres}.get(name)

    def _is_busy(self, pid: int) -> bool:
        for effect in self._ledger.read():
            self._note(effect)
        old = time.monotonic_ns() - BUSY_NS
        return any(key[0] == pid and since < old for key, since in self._open_since.items())

    def _note(self, effect: Effect) -> None:
        key = (effect.pid, effect.job_id, effect.attempt)
        if effect.event == "start":
            self._open_since[key] = effect.time_ns
        else:
            self._open_since.pop(key, None)


def _signal_server(server: Server, number: Signals) -> int:
    pid = server.pid
    if number == SIGTERM:
        server.stop()
        return pid
    for child in _children(pid):
        with suppress(ProcessLookupError):
            os.kill(child, number)
    if number == SIGKILL:
        server.kill()
    else:
        os.kill(pid, number)
    return pid


def _children(parent: int) -> Iterator[int]:
    """The pids of those that a process has started and that are still there."""
    listing = ["ps", "-A", "-o", "pid=,ppid="]
    table = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=True).stdout
    for line in table.splitlines():
        pid, ppid = map(int, line.split())
        if ppid == parent:
            yield pid
