"""Requests that are legal but rare, and what others make of them: offers to upgrade, trailers, pools of connections."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.cluster import Cluster
from tests.hostile.attacks import HOST, NOOP
from tests.hostile.wire import Wire, request

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

UPGRADE = ("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")
HEALTH = request("GET", "/healthz", json_type=False)
POOLED_SECONDS = 7.0  # httpx keeps a connection for 5, aiohttp for 15, nginx and AWS's balancers for 60


async def told(url: str, *parts: bytes) -> bytes:
    """All that is answered to these, sent one after the other, and the end of the connection asked for."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    async with asyncio.timeout(30):
        for n, part in enumerate(parts):
            await asyncio.sleep(0.1 if n else 0.0)  # so that they come apart, mostly
            writer.write(part)
            await writer.drain()
        writer.write(request("GET", "/healthz", b"", ("Connection", "close")))
        found = await reader.read()
    writer.close()
    return found


async def test_an_offer_to_upgrade_is_passed_over_and_its_body_is_no_request(cluster: Cluster) -> None:
    url = await cluster.api()
    hidden = b"GET /jobs/hidden HTTP/1.1\r\n" + HOST + b"\r\n"
    head, _, _ = request("POST", "/jobs", NOOP, *UPGRADE).partition(NOOP)
    wire = Wire(url)
    for whole in (head + NOOP, request("GET", "/healthz", b"", *UPGRADE), head + NOOP, HEALTH):
        assert (await wire.ask(whole)).status in (200, 202), whole
    wire.close()
    assert (await told(url, head, NOOP)).count(b"HTTP/1.1 202 ") == 1
    assert (await told(url, (head + NOOP) * 200)).count(b"HTTP/1.1 202 ") == 200
    claimed = head.replace(b"%d" % len(NOOP), b"%d" % len(hidden))
    assert b"HTTP/1.1 404 " not in await told(url, claimed, hidden), "a body was read as a request of its own"
    assert (await Wire(url).ask(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")).status == 400
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(203,)]
    assert "WARNING" not in cluster.log()


async def test_a_trailer_is_no_header(cluster: Cluster) -> None:
    url = await cluster.api()
    body = b"%x\r\n%s\r\n0\r\n" % (len(NOOP), NOOP)
    head = b"POST /jobs HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    for _ in range(2):
        assert b"HTTP/1.1 202 " in await told(url, head + HOST + b"\r\n" + body + b"Idempotency-Key: k\r\n\r\n")
    assert b"HTTP/1.1 400 " in await told(url, head + b"\r\n" + body + HOST + b"\r\n")
    assert cluster.rows("SELECT DISTINCT idempotency_key FROM scheduler.jobs") == [(None,)]


async def test_a_connection_outlives_the_pools_of_its_clients(cluster: Cluster) -> None:
    url = await cluster.api()
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    async with asyncio.timeout(60):
        for pause in (POOLED_SECONDS, 0.0):
            writer.write(HEALTH)
            assert b" 200 " in await reader.readline()
            await reader.readuntil(b'{"status":"ok"}')
            await asyncio.sleep(pause)
    writer.close()


async def test_what_is_no_request_fills_no_log(cluster: Cluster) -> None:
    url = await cluster.api()
    wire = Wire(url)
    for _ in range(50):
        assert (await wire.ask(b"\x16\x03\x01\x02\r\n\r\n")).status == 400
    assert "Invalid HTTP" not in cluster.log()


async def test_head_is_answered_as_get_without_its_body(cluster: Cluster) -> None:
    url = await cluster.api(api_keys="s:submit:one,r:read:two")
    for path, key, status in (
        ("/healthz", "", 200),
        ("/readyz", "", 200),
        ("/docs", "", 200),
        ("/metrics", "two", 200),
        ("/metrics", "one", 403),
        ("/metrics", "", 401),
        ("/nowhere", "two", 404),
    ):
        raw = request("HEAD", path, b"", ("Authorization", f"Bearer {key}"), ("Connection", "close"))
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(raw)
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert (int(head.split()[1]), body) == (status, b""), path
        assert b"content-length: " in head.lower(), path


async def test_what_is_no_http_ends_the_answers_before_it_without_an_error_of_ours(cluster: Cluster) -> None:
    url = await cluster.api()
    page = b"GET /docs HTTP/1.1\r\n" + HOST + b"\r\n"
    for behind in (b"\x00no request\r\n\r\n", page + b"\x00no request\r\n\r\n"):
        for _ in range(20):
            assert b"HTTP/1.1 400 " in await said_at_once(url, page + behind)
    assert "request_failed" not in cluster.log()
    assert "Traceback" not in cluster.log()


async def said_at_once(url: str, sent: bytes) -> bytes:
    """All that is answered before the server closes the connection."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(sent)
    async with asyncio.timeout(30):
        found = await reader.read()
    writer.close()
    return found
