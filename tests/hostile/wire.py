"""A client that sends bytes as they are, and reads whatever comes back: framing itself is under attack here."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

ANSWER_SECONDS = 30.0
LINGER_NOT = struct.pack("ii", 1, 0)  # closes with a reset: a hundred thousand connections leave no ports waiting


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said; a status of 0: it closed the connection without a word."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def jobs(self) -> list[str]:
        """The ids of the jobs that are accepted by this answer; a batch names those that its keys had already, too."""
        told = json.loads(self.body) if self.status == 202 else {"ids": []}
        return told["ids"] if "ids" in told else [told["id"]]

    @property
    def fault(self) -> str:
        """What is wrong with it: a status of 500 or more, or an error that is no problem document."""
        if self.status >= 500:
            return f"status {self.status}: {self.body[:200]!r}"
        if self.status < 400:
            return ""
        if self.headers.get("content-type") != "application/problem+json":
            return f"status {self.status} as {self.headers.get('content-type')}: {self.body[:200]!r}"
        told: dict[str, Any] = json.loads(self.body) if self.body else {"status": self.status}  # the answer to a HEAD
        return "" if told["status"] == self.status else f"status {self.status} says {told['status']}"


def request(
    method: str, path: str, body: bytes = b"", *headers: tuple[str, str | bytes], json_type: bool = True
) -> bytes:
    """A whole request with a true Content-Length."""
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1", "replace"), b"Host: 127.0.0.1"]
    if json_type and (body or method in ("POST", "DELETE")):
        lines.append(b"Content-Type: application/json")
    for name, value in headers:
        lines.append(name.encode("latin-1") + b": " + (value if isinstance(value, bytes) else value.encode()))
    lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class Wire:
    """One connection at a time, kept as long as the server keeps it."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).hostname or "", urlsplit(url).port or 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, raw: bytes) -> Answer:
        """The answer to these bytes. Raises TimeoutError when there is none within ANSWER_SECONDS."""
        async with asyncio.timeout(ANSWER_SECONDS):
            if self._writer is None or self._reader is None or self._reader.at_eof() or self._writer.is_closing():
                self.close()
                self._reader, self._writer = await asyncio.open_connection(*self._address, limit=1 << 20)
                own: socket.socket = self._writer.get_extra_info("socket")
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            try:
                self._writer.write(raw)
                return await self._answer(self._reader, is_head=raw.startswith(b"HEAD "))
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                return Answer(0)

    async def throw(self, raw: bytes) -> None:
        """Send these bytes on a connection of their own, and hang up."""
        self.close()
        _, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(raw)
        with suppress(ConnectionError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._writer.drain()
        self.close()

    def close(self) -> None:
        """Forget the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _answer(self, reader: asyncio.StreamReader, *, is_head: bool) -> Answer:
        status, headers = 100, dict[str, str]()
        while status < 200:  # 100 Continue
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split()[1])
            pairs = (line.partition(":") for line in head[1:] if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
        size = 0 if is_head or status == 204 else int(headers.get("content-length", 0))
        body = await reader.readexactly(size)
        if headers.get("connection") == "close":
            self.close()
        return Answer(status, headers, body)
