"""Network links that fail in the way that hurts most: by silence, and right after the request has passed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield int(listener.getsockname()[1])


class Link:
    """A proxy to one server. After `silence()` it holds every byte and both connections until `heal()`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._joined: set[asyncio.Task[None]] = set()
        self.port = 0

    def silence(self) -> None:
        self._flowing.clear()

    def heal(self) -> None:
        self._flowing.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in self._joined:
                task.cancel()
            await asyncio.gather(*self._joined, return_exceptions=True)

    async def passing(self, request: bytes) -> bytes:
        """Called with what a client sends, before it goes on its way. Returns what goes on instead."""
        return request

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joined.add(task)
        writers = [writer]
        try:
            await self._flowing.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, is_request=True))
                group.create_task(self._pump(far_reader, writer, is_request=False))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            for one in writers:
                one.transport.abort()
            self._joined.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_request: bool) -> None:
        while data := await source.read(65_536):
            await self._flowing.wait()
            if is_request:
                data = await self.passing(data)
            sink.write(data)
            await sink.drain()
        raise ConnectionError("one side has hung up")


class Tripwire(Link):
    """Writes down the commands that pass, and catches the connection that brings the chosen one.

    `spring` is called right before that command goes on its way and `release` when its connection has ended, both in
    a thread. Whoever connects in between waits: a client that repeats by itself finds the link in order again.
    """

    def __init__(self, port: int, commands: Callable[[bytes], list[str]]) -> None:
        super().__init__("127.0.0.1", port)
        self._commands = commands
        self._nth = 0
        self._spring: Callable[[], object] = lambda: None
        self._release: Callable[[], object] = lambda: None
        self.seen: list[str] = []

    def set(self, nth: int, spring: Callable[[], object], release: Callable[[], object]) -> None:
        """From now on commands are counted, the first as 1."""
        self.seen, self._nth, self._spring, self._release = [], nth, spring, release

    async def released(self) -> None:
        await self._flowing.wait()

    async def passing(self, request: bytes) -> bytes:
        for command in self._commands(request):
            self.seen.append(command)
            if len(self.seen) == self._nth:
                self.silence()
                await asyncio.to_thread(self._spring)
        return request

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await super()._join(reader, writer)
        finally:
            if not self._flowing.is_set():
                await asyncio.to_thread(self._release)
                self.heal()


class Pooler(Link):
    """Drops the parameter `options` of every session, as PgBouncer does with ignore_startup_parameters = options."""

    async def passing(self, request: bytes) -> bytes:
        version, parameters = request[4:8], request[8:-2].split(b"\0")
        if version != b"\0\3\0\0" or b"options" not in parameters[::2]:
            return request
        at = parameters.index(b"options")
        body = version + b"\0".join(parameters[:at] + parameters[at + 2 :]) + b"\0\0"
        return (len(body) + 4).to_bytes(4, "big") + body


def redis_commands(request: bytes) -> list[str]:
    """The command that starts these bytes, named as INFO commandstats does; none if it introduces a connection."""
    name, more = (request.split(b"\r\n", 5)[at : at + 1] for at in (2, 4))
    words = [word.decode("ascii", "replace").lower() for word in name + more]
    if words[0] in ("client", "hello", "select"):
        return []
    return ["|".join(words)] if words[0] in ("config", "xgroup", "xinfo") else words[:1]


def postgres_commands(request: bytes) -> list[str]:
    """Every message that makes the server run something: Execute (E), or a simple Query (Q)."""
    found, at = [], 0
    while at + 5 <= len(request):
        if request[at : at + 1] in (b"E", b"Q"):
            found.append(request[at : at + 1].decode())
        at += 1 + int.from_bytes(request[at + 1 : at + 5], "big")
    return found


@asynccontextmanager
async def linked(url: str, kind: type[Link] = Link) -> AsyncIterator[tuple[Link, str]]:
    """A link to the server of `url`, and the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    link = kind(parts.hostname, parts.port)
    async with link.open():
        yield link, with_port(url, link.port)


def with_port(url: str, port: int) -> str:
    return url.replace(f":{urlsplit(url).port}", f":{port}")
