"""The HTTP server: uvicorn with our socket, our signal handling and our log, and with bounds for each connection.

A connection has HEAD_SECONDS to begin and for the head of each request, and may rest for KEPT_SECONDS between two. When
there are as many as the process can have, the one that has kept the server waiting longest is closed for a new one.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from scheduler.api.problems import raw_problem
from scheduler.errors import ConfigurationError
from scheduler.facts.facts import API_LISTENING, tell
from scheduler.settings import Settings

PROTOCOL: dict[str, Any] = {"loop": "none", "ws": "none", "lifespan": "off", "backlog": 4096}
QUIET: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False}

MAX_CONNECTIONS = 10_000
OTHER_FILES = 64
HEAD_SECONDS, REQUEST_SECONDS = 10.0, 120.0
KEPT_SECONDS = 75  # longer than pools of connections keep theirs, or a request meets the end of its connection
MAX_HEAD_BYTES, PIECE_BYTES = 64 << 10, 16 << 10


def most_connections() -> int:
    """How many connections this process can have: MAX_CONNECTIONS, or what its limit of open files leaves."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files < 0 else max(OTHER_FILES, min(MAX_CONNECTIONS, files - OTHER_FILES))


class Clients(ServerState):
    """Every connection; those that the server waits for, the longest wait first."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: OrderedDict[Connection, None] = OrderedDict()
        self._most = most_connections()

    def admit(self, connection: Connection) -> None:
        """Let it in, for the one that is awaited longest when there are too many."""
        self.awaited[connection] = None
        if len(self.connections) > self._most:
            self.awaited.popitem(last=False)[0].transport.abort()

    def sweep(self, now: float) -> None:
        """End the connections that have had their time."""
        for connection in [each for each in self.connections if isinstance(each, Connection)]:
            if now - connection.since > connection.patience:
                connection.end()


class Connection(HttpToolsProtocol):
    """One client's connection. What comes in one go is parsed in pieces, and no further than to a request that has to
    wait for the answer before it. `since`: when it last began or finished a request, or finished an answer.
    """

    server_state: Clients
    since = 0.0
    _unread, _head_bytes = b"", 0

    @property
    def is_idle(self) -> bool:
        """Whether it has neither a request under way nor an answer left to take."""
        is_free = self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]
        return is_free and not self.transport.get_write_buffer_size()

    @property
    def patience(self) -> float:
        """Seconds that it may stay as it is."""
        if not self.is_idle:
            return REQUEST_SECONDS
        return HEAD_SECONDS if self._head_bytes or self.cycle is None else KEPT_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in; another may have to go."""
        super().connection_made(transport)
        self.since = self.loop.time()
        self.server_state.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits for it any more; nor does uvicorn's timer, which would keep one that was reset in memory."""
        self.server_state.awaited.pop(self, None)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what may be parsed now."""
        self._unread += data
        self._parse()

    def _parse(self) -> None:
        if self.transport.is_closing():
            self._unread = b""
        while self._unread and not self.pipeline:
            piece, self._unread = self._unread[:PIECE_BYTES], self._unread[PIECE_BYTES:]
            self._head_bytes += len(piece)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, f"the request's head has more than {MAX_HEAD_BYTES} bytes; send less of it")
            else:
                self._feed(piece)
        if self._unread:
            self.flow.pause_reading()

    def _feed(self, piece: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(piece)
        except HttpParserUpgrade as offer:  # the parser passes over a body: once more without the offer
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
            lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
            self._unread = b"\r\n".join([*lines, b"", piece[offer.args[0] :]]) + self._unread
            if method == b"CONNECT":
                self._refuse(400, "this is no proxy; send CONNECT to one")
        except HttpParserError:
            self._refuse(400, "it is not HTTP/1.1, or its address is none; correct its first lines")

    def on_message_begin(self) -> None:
        """A request begins."""
        self.since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._head_bytes = 0
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self.headers = []  # trailers are not the request's

    def on_body(self, body: bytes) -> None:
        """What comes is no head."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: now the client waits."""
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        if not self.cycle.response_complete:
            self.since = self.loop.time()
            self.server_state.awaited.pop(self, None)

    def on_response_complete(self) -> None:
        """It may send its next request."""
        self.since = self.loop.time()
        if not self.pipeline:
            self.server_state.awaited.pop(self, None)
            self.server_state.awaited[self] = None
        super().on_response_complete()
        if self._unread:
            self.loop.call_soon(self._parse)

    def end(self) -> None:
        """Close it: with a word when half a head has come, by force when it is closing already."""
        if self._head_bytes and self.is_idle and not self.transport.is_closing():
            self._refuse(408, f"the request's head did not arrive within {HEAD_SECONDS:g} s; send it whole")
        else:
            self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        self._unread = b""
        self.transport.write(raw_problem(status, detail))
        self.transport.close()


class Server(uvicorn.Server):
    """Serves until `should_exit` is set; the process's signals are the runtime's affair."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        grace = max(1, int(settings.grace_seconds))
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                **PROTOCOL,
                **QUIET,
                timeout_graceful_shutdown=grace,
                timeout_keep_alive=KEPT_SECONDS,
            )
        )
        self._host, self._port = settings.host, settings.port
        self.server_state = self._clients = Clients()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s; each second, ends the connections that have had their time."""
        if counter % 10 == 0:
            self._clients.sweep(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def run_here(self) -> None:
        """Listen and serve. Raises ConfigurationError when the address is taken."""
        is_v6 = ":" in self._host
        family = socket.AF_INET6 if is_v6 else socket.AF_INET
        try:  # from here on nobody is turned away; who comes before `serve` waits
            listener = socket.create_server((self._host, self._port), family=family, dualstack_ipv6=is_v6)
        except OSError as error:
            reason = f"cannot listen on {self._host}:{self._port}: {error.strerror}"
            raise ConfigurationError(f"{reason}; stop what uses it, or set SCHEDULER_PORT") from error
        tell(API_LISTENING, url=f"http://{f'[{self._host}]' if is_v6 else self._host}:{listener.getsockname()[1]}")
        await self.serve([listener])
