"""Connections that say nothing, half of something, or hang up while they wait: others are served, and they end."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from scheduler.api.server import HEAD_SECONDS
from tests.cluster import Cluster, eventually
from tests.hostile.attacks import HOST, NOOP, SOME_ID
from tests.hostile.wire import request

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e, pytest.mark.slow]
SILENT, FILES = 5_000, 256
MOST_WAITING = (FILES - 64) // 2


@contextmanager
def open_files(most: int) -> Iterator[None]:
    """What is started while the block runs may have so many open; for this process, as many as it is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def api(cluster: Cluster) -> tuple[str, tuple[str, int]]:
    """The URL and the address of an API with few descriptors."""
    with open_files(FILES):
        url = await cluster.api()
    return url, (urlsplit(url).hostname or "", urlsplit(url).port or 0)


def opened(address: tuple[str, int], said: bytes) -> socket.socket:
    """A connection that has said so much; it does not wait to be let in."""
    own = socket.socket()
    own.setblocking(False)
    with suppress(BlockingIOError):
        own.connect(address)
    with suppress(OSError):
        own.send(said)
    return own


def is_over(connection: socket.socket) -> bool:
    """Whether the server has closed it."""
    try:
        while connection.recv(4_096):
            pass
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


async def test_silent_connections_leave_others_served_and_end(cluster: Cluster) -> None:
    url, address = await api(cluster)
    silent: list[socket.socket] = []
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        try:
            for n in range(min(SILENT, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)):
                silent.append(opened(address, b"GET /jobs HTTP/1.1\r\nHos" if n % 2 else b""))
                if n % 100 == 99:
                    assert (
                        await http.post("/jobs", content=NOOP, headers={"content-type": "application/json"})
                    ).is_success
                    assert (await http.get("/healthz", headers={"connection": "close"})).is_success
            assert psutil.Process(cluster.processes[0].pid).num_fds() < FILES

            def left() -> int:
                return sum(not is_over(each) for each in silent)

            within = 3 * HEAD_SECONDS + 30
            await eventually(left, within=within, every=0.5, of="no silent connection", until=lambda found: not found)
        finally:
            for each in silent:
                each.close()
    assert "request_failed" not in cluster.log()


async def test_half_a_head_is_answered_after_its_deadline(cluster: Cluster) -> None:
    url, address = await api(cluster)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /jobs HTTP/1.1\r\nHos")
    async with asyncio.timeout(3 * HEAD_SECONDS + 30):
        told = await reader.read()
    writer.close()
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in told
    assert (await asyncio.to_thread(httpx.get, f"{url}/healthz")).is_success


async def test_long_polls_are_counted_and_end_with_their_client(cluster: Cluster) -> None:
    url, address = await api(cluster)
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        later = {"type": "NOOP", "payload": {}, "delay_seconds": 600}
        job = (await http.post("/jobs", json=later)).json()["id"]
        raw = request("GET", f"/jobs/{job}?wait=60")
        more = 40  # than can wait: a look below may take the place of one of them
        polls = [await asyncio.open_connection(*address) for _ in range(MOST_WAITING + more)]
        try:
            for _, writer in polls:
                writer.write(raw)
                await writer.drain()

            async def is_full() -> bool:
                return (await http.get(f"/jobs/{job}", params={"wait": 0.01})).status_code == 429

            await eventually(is_full, within=60, of="a refused long poll")
        finally:
            for _, writer in polls:
                writer.close()

        async def is_let_in() -> bool:
            return not await is_full()

        await eventually(is_let_in, within=20, of="a long poll in the place of one that hung up")
    assert "request_failed" not in cluster.log()


async def test_pipelined_requests_are_answered_in_order(cluster: Cluster) -> None:
    url, address = await api(cluster)
    asked = [b"GET /jobs/%d HTTP/1.1\r\n" % n + HOST + b"\r\n" for n in range(3_000)]
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"".join(asked) + request("GET", f"/jobs/{SOME_ID}", b"", ("Connection", "close")))
    async with asyncio.timeout(60):
        told = await reader.read()
    writer.close()
    assert told.count(b"HTTP/1.1 404 ") == 3_001
    places = [told.index(b"'%d'" % n) for n in range(0, 3_000, 100)]
    assert places == sorted(places)
    assert url


async def test_a_connection_that_was_reset_is_forgotten_at_once(cluster: Cluster) -> None:
    _, address = await api(cluster)
    asked, at_once = request("GET", "/healthz", json_type=False), struct.pack("ii", 1, 0)

    def reset(times: int) -> None:
        for _ in range(times):
            with socket.create_connection(address, timeout=10) as own:
                own.sendall(asked)
                assert own.recv(4_096)
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)

    process = psutil.Process(cluster.processes[0].pid)
    await asyncio.to_thread(reset, 500)
    before = process.memory_info().rss
    await asyncio.to_thread(reset, 5_000)
    growth = process.memory_info().rss - before
    assert growth < 5 << 20, f"{growth >> 10} KiB, of 5,000 connections"
