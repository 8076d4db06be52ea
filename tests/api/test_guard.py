"""Who is let in before a request is read: hosts, origins, content types; and what strangers are not told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from scheduler.embedded import free_port
from tests.cluster import Cluster, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]

NOOP = b'{"type":"NOOP","payload":{}}'
JSON = {"content-type": "application/json"}
ORIGIN = {"origin": "https://evil.example"}
WRITES = [
    ("POST", "/jobs", NOOP),
    ("POST", "/jobs/batch", b'{"jobs":[' + NOOP + b"]}"),
    ("POST", "/dlq/redrive", b"{}"),
    ("DELETE", "/dlq", b"{}"),
]
TYPES = [
    None,
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
]
FOREIGN = [
    ORIGIN,
    {"origin": "null"},
    {"origin": "http://localhost:8089"},  # another page on this machine
    {"origin": "http://127.0.0.1.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "Cross-Site", "origin": ""},
]


def _http(url: str, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=30, trust_env=False, **options)


def _told(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["detail"]


async def _raw(url: str, head: str) -> bytes:
    """The status line of the answer to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
    async with asyncio.timeout(10):
        writer.write(head.encode() + b"\r\n\r\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
    return line.split()[1]


async def test_a_web_page_can_neither_submit_nor_redrive_nor_purge_nor_cancel(cluster: Cluster) -> None:
    async with _http(await cluster.api()) as http:
        job = (await http.post("/jobs", content=NOOP, headers=JSON)).json()["id"]
        for method, path, body in WRITES:
            for kind in TYPES:
                answer = await http.request(method, path, content=body, headers={"content-type": kind} if kind else {})
                code, detail = _told(answer)
                assert (code, "application/json" in detail) == (415, True), (path, kind)
        for method, path, body in [*WRITES, ("POST", f"/jobs/{job}/cancel", b""), ("GET", "/jobs", b"")]:
            for headers in FOREIGN:
                answer = await http.request(method, path, content=body, headers={**JSON, **headers})
                assert _told(answer)[0] == 403, (path, headers)
        assert (await http.get(f"/jobs/{job}")).json()["status"] == "PENDING"
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(1,)]


async def test_programs_and_the_own_documentation_are_let_in(cluster: Cluster) -> None:
    async with _http(url := await cluster.api()) as http:
        for kind in ("application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"'):
            assert (await http.post("/jobs", content=NOOP, headers={"content-type": kind})).status_code == 202, kind
        own = {"origin": url.upper().replace("HTTP:", "http:"), "sec-fetch-site": "same-origin"}
        assert (await http.post("/jobs", content=NOOP, headers={**JSON, **own})).status_code == 202
        assert (await http.get("/stats", headers={"sec-fetch-site": "none"})).status_code == 200
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert (await http.get("/stats", headers=link)).status_code == 200, "a link that somebody follows"
        assert (await http.post("/jobs/x/cancel", headers=link)).status_code == 403
        assert (await http.get("/stats", headers={**link, "sec-fetch-dest": "iframe"})).status_code == 403
        assert (await http.post("/jobs/", content=NOOP, headers=JSON)).status_code == 404, "no redirection"


async def test_only_known_hosts_are_answered_but_probes_may_use_any(cluster: Cluster) -> None:
    async with _http(url := await cluster.api(hosts="jobs.example.com, Other:80")) as http:
        for host in ("localhost", "LOCALHOST:99", "127.0.0.1:3000", "[::1]:3000", "jobs.example.com:8443", "other."):
            answer = await http.post("/jobs", content=NOOP, headers={**JSON, "host": host})
            assert answer.status_code == 202, host
            assert (await http.get("/stats", headers={"host": host})).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "10.1.2.3:3000", "xjobs.example.com", "[::2]", "[", ""):
            for method, path in (("POST", "/jobs"), ("GET", "/stats"), ("GET", "/nowhere")):
                code, detail = _told(await http.request(method, path, content=NOOP, headers={**JSON, "host": host}))
                assert (code, "SCHEDULER_HOSTS" in detail) == (421 if host else 400, True), (host, path)
            assert (await http.get("/healthz", headers={"host": host})).status_code == 200
            assert (await http.get("/readyz", headers={"host": host})).status_code == 200
    assert await _raw(url, "GET /stats HTTP/1.1") == b"400"
    assert await _raw(url, "GET /stats HTTP/1.0") == b"400"
    assert await _raw(url, "GET /healthz HTTP/1.0") == b"200"
    assert await _raw(url, "GET /stats HTTP/1.1\r\nHost: localhost\r\nHost: evil.example") == b"400"
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(6,)]


async def test_a_header_that_is_sent_twice_is_refused_by_both_paths_alike(cluster: Cluster) -> None:
    async with _http(await cluster.api(api_keys="one")) as http:
        right, wrong = ("authorization", "Bearer one"), ("authorization", "Bearer two")
        for twice in ([right, wrong], [wrong, right], [right, right]):
            for method, path in (("POST", "/jobs"), ("GET", "/jobs")):
                answer = await http.request(method, path, content=NOOP, headers=[*JSON.items(), *twice])
                assert _told(answer) == (400, "the header authorization came twice; send it once"), path
        keys = [*JSON.items(), right, ("idempotency-key", "a"), ("idempotency-key", "b")]
        assert (await http.post("/jobs", content=NOOP, headers=keys)).status_code == 400
        many = [*JSON.items(), right, ("accept", "a/b"), ("accept", "c/d")]
        assert (await http.post("/jobs", content=NOOP, headers=many)).status_code == 202
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(1,)]


async def test_strangers_are_told_which_store_is_away_and_an_operators_key_also_why(cluster: Cluster) -> None:
    port, nowhere = free_port(), free_port()
    away = f"postgresql://owner:secret@127.0.0.1:{nowhere}/books"
    cluster.start("api", port=port, database_url=away, api_keys="o:operate:one,r:read:two")
    words = ("owner", "secret", str(nowhere), "books", "127.0.0.1")
    operator = {"authorization": "Bearer one"}
    async with _http(f"http://127.0.0.1:{port}") as http:

        async def is_listening() -> bool:
            try:
                return (await http.get("/healthz")).is_success
            except httpx.TransportError:
                return False

        await eventually(is_listening, within=20)
        for headers in ({}, {"authorization": "Bearer two"}, {"authorization": "Bearer three"}):
            answer = await http.get("/readyz", headers=headers)
            assert answer.status_code == 503
            told = answer.json()
            assert (told["postgres"], told["redis"], told["jobs"]) == ("out of reach", "ok", "stalled")
        for answer in (
            await http.post("/jobs", content=NOOP, headers={**JSON, **operator}),
            await http.get("/jobs", headers=operator),
        ):
            code, detail = _told(answer)
            assert (code, answer.headers["retry-after"]) == (503, "1")
            assert detail.startswith("PostgreSQL is out of reach; ")
            assert not [word for word in words if word in detail]
        why = (await http.get("/readyz", headers=operator)).json()["postgres"]
        assert str(nowhere) in why
        assert json.dumps(why)[1:20] in cluster.log(), "and the log says so"
        for unread in (await http.get("/stats"), await http.post("/jobs", content=NOOP, headers=JSON)):
            assert _told(unread)[0] == 503, "who knows which keys there are"
