"""The far end of WEBHOOK jobs: a tiny HTTP server that records which attempt of which job called, and answers 200.

A second independent witness beside the effect ledger. One request a connection, bounded in size and time.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from chaos.record.recorder import Recorder

REQUEST_SECONDS = 10.0  # to read one request and answer it; not measured
MAX_HEAD_BYTES, MAX_BODY_BYTES = 16 << 10, 1 << 20
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class Sink:
    """Serves inside the block, at `url`. Without a recorder it only answers."""

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=MAX_HEAD_BYTES)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/webhook"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                headers = _headers(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(min(int(headers.get("content-length", "0")), MAX_BODY_BYTES))
                self._record(headers)
                writer.write(ANSWER)
                await writer.drain()
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            pass  # the caller died or spoke no HTTP: it got no answer, and says so itself
        finally:
            writer.close()

    def _record(self, headers: dict[str, str]) -> None:
        if self._recorder is not None:
            value = {"id": headers.get("x-job-id", ""), "attempt": int(headers.get("x-job-attempt", "0"))}
            self._recorder.ok(self._recorder.invoke("sink", "webhook", value), value)


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
