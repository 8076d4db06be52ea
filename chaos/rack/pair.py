"""Two Redis servers behind one address, which leads to the master; connections that stand stay where they are.

Toxiproxy cuts the connections of a proxy whose upstream changes, so the address is a relay of its own.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import redis

from chaos.errors import FaultFailed
from scheduler.embedded import Redis

LOOPBACK = "127.0.0.1"
CONNECT_SECONDS, CHUNK = 5.0, 1 << 16
NOBODY = (LOOPBACK, "1")  # whom a replica follows that is to hear nothing


class Relay(ThreadingTCPServer):
    """Passes each connection on to where `port` leads at its beginning, for as long as both ends want it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__((LOOPBACK, 0), _Passing)
        self.port = port
        Thread(target=self.serve_forever, name="relay", daemon=True).start()

    def close(self) -> None:
        """Accept no more; what stands ends with its server."""
        self.shutdown()
        self.server_close()


class _Passing(BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.server.port), CONNECT_SECONDS) as there:
            there.settimeout(None)
            back = Thread(target=_pass_on, args=(there, self.request), daemon=True)
            back.start()
            _pass_on(self.request, there)
            back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(CHUNK):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class Pair:
    """A context manager: the server that is there, its replica, and the address of the master, which `url` names."""

    def __init__(self, first: Redis) -> None:
        self._first = self._master = first
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-replica-"))
        self._replica = Redis(self._folder)

    def __enter__(self) -> Self:
        try:
            self._replica.folder.mkdir(mode=0o700)
            for password in self._first.folder.glob("password.*"):  # one for both, as for any pair
                shutil.copy2(password, self._replica.folder)
            self._replica.start()
            for server in (self._first, self._replica):
                _ask(
                    server, "CONFIG", "SET", "masteruser", "default", "masterauth", urlsplit(server.url).password or ""
                )
            _tell(self._replica, LOOPBACK, str(self._first.port))
            self._relay = Relay(self._first.port)
        except BaseException:
            self._replica.erase()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._relay.close()
        with suppress(FaultFailed):  # it is flushed, or started anew, before it is used again
            _tell(self._first, "NO", "ONE")
        (self._replica if self._master is self._first else self._master).erase()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """Of whichever is the master."""
        return at(self._first.url, self._relay.server_address[1])

    def fail_over(self) -> int:
        """The replica takes the address over, with what it has; the old master becomes its replica."""
        old, new = self._master, self._replica
        _tell(new, "NO", "ONE")
        self._relay.port = new.port
        self._master, self._replica = new, old
        _tell(old, LOOPBACK, str(new.port))
        return new.port

    def part(self) -> None:
        """From now on the replica grows stale."""
        _tell(self._replica, *NOBODY)


def at(url: str, port: int) -> str:
    """The URL of another server with the same passwords."""
    own = urlsplit(url)
    return own._replace(netloc=f"{own.netloc.rpartition(':')[0]}:{port}").geturl()


def _tell(server: Redis, *master: str) -> None:
    _ask(server, "REPLICAOF", *master)


def _ask(server: Redis, *words: str) -> None:
    try:
        with redis.Redis.from_url(server.url, socket_timeout=5, socket_connect_timeout=5) as client:
            client.execute_command(*words)
    except redis.RedisError as error:
        raise FaultFailed(f"Redis at port {server.port}, told {words[0]}: {error}") from error
