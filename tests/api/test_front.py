"""What stands in front of every path: keys, the limit and the deadline of a body; and how dead letters are selected."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from scheduler.api import hot
from scheduler.api.app import build_app
from scheduler.api.parts import build_parts
from scheduler.jobs.registry import Registry
from scheduler.runtime import open_stores
from scheduler.settings import Settings
from tests.cluster import JSON, Cluster

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]
LIMIT = 1 << 20
BODIED = ["POST /dlq/redrive", "DELETE /dlq", "POST /jobs/batch", "POST /jobs/0/cancel", "GET /stats", "GET /nowhere"]
SELECTIONS: list[tuple[str, bytes, str]] = [
    ("no JSON", b"{", "body"),
    ("nothing", b"", "body"),
    ("a list", b"[]", "body"),
    ("null", b"null", "body"),
    ("invalid UTF-8", b'{"error":"\xff"}', "body"),
    ("a lone surrogate", b'{"error":"\\ud800"}', "body"),
    ("an unknown field", b'{"tipe":"NOOP"}', "tipe"),
    ("a field of a submission", b'{"max_attempts":3}', "max_attempts"),
    ("ids that are no list", b'{"ids":"all"}', "ids"),
    ("an id that is a number", b'{"ids":["00000000-0000-7000-8000-000000000000",1]}', "ids[1]"),
    ("an id that is none", b'{"ids":["x"]}', "ids[0]"),
    ("10,001 ids", json.dumps({"ids": ["x"] * 10_001}).encode(), "ids"),
    ("a long type", json.dumps({"type": "x" * 201}).encode(), "type"),
    ("a type with NUL", b'{"type":"\\u0000"}', "type"),
    ("an error with NUL", b'{"error":"\\u0000"}', "error"),
    ("a long error", json.dumps({"error": "x" * 1_001}).encode(), "error"),
    ("a negative age", b'{"older_than_seconds":-1}', "older_than_seconds"),
    ("no limit", b'{"limit":0}', "limit"),
    ("a limit past the highest", b'{"limit":10001}', "limit"),
    ("a dry run that is a word", b'{"dry_run":"no"}', "dry_run"),
]
RATES: list[tuple[str, bytes, str]] = [
    ("a rate of zero", b'{"rate":0}', "rate"),
    ("too high a rate", b'{"rate":100001}', "rate"),
]


def _told(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json().get("field", "")


async def _pieces(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 1 << 16):
        yield b" " * (1 << 16)


async def test_every_path_refuses_a_body_past_the_limit_and_keys_come_first(cluster: Cluster) -> None:
    url = await cluster.api(max_request_bytes=LIMIT, api_keys="one")
    async with httpx.AsyncClient(base_url=url, timeout=30, headers=JSON, trust_env=False) as http:
        for method, path in (request.split() for request in BODIED):
            stranger = await http.request(method, path, content=b" " * 2 * LIMIT)
            assert _told(stranger) == (401, ""), path
            http.headers["Authorization"] = "Bearer one"
            assert _told(await http.request(method, path, content=b" " * (LIMIT + 1))) == (413, "body"), path
            assert _told(await http.request(method, path, content=_pieces(2 * LIMIT))) == (413, "body"), path
            del http.headers["Authorization"]
        assert (await http.request("GET", "/healthz", content=b"{}")).status_code == 200


async def test_a_body_that_does_not_arrive_is_given_up_on_every_path(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "BODY_SECONDS", 0.1)
    settings = Settings(database_url=cluster.database_url, redis_url=cluster.redis_url)
    async with open_stores(settings, "api", 1) as (store, stream):
        parts = build_parts(settings, store, stream, Registry())
        app = build_app(settings, parts)
        for method, path in (request.split() for request in [*BODIED, "POST /jobs"]):
            assert await _answer_to_silence(app, method, path) == 408, path


async def test_large_bodies_under_way_together_are_bounded_and_small_ones_pass(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hot, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(hot, "MAX_HELD_BYTES", 300 << 10)
    settings = Settings(database_url=cluster.database_url, redis_url=cluster.redis_url)
    async with open_stores(settings, "api", 1) as (store, stream):
        app, large = build_app(settings, build_parts(settings, store, stream, Registry())), b" " * (200 << 10)
        first = asyncio.ensure_future(_answer_to_silence(app, "POST", "/jobs", large))
        await asyncio.sleep(0)
        assert await _answer_to_silence(app, "POST", "/jobs/batch", large) == 503
        assert not first.done()
        assert await _answer_to_silence(app, "POST", "/jobs", b"{") == 408
        assert await first == 408
        assert await _answer_to_silence(app, "POST", "/jobs/batch", large) == 408, "what came before is forgotten"


async def _answer_to_silence(app: ASGIApp, method: str, path: str, half: bytes = b"{") -> int:
    """The status of the answer to a client that sends half a body, and then waits for ever."""
    sent, halves = list[Any](), [{"type": "http.request", "body": half, "more_body": True}]

    async def receive() -> Any:
        return halves.pop() if halves else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "http_version": "1.1", "scheme": "http", "query_string": b""}
    scope |= {"method": method, "path": path, "raw_path": path.encode(), "headers": [(b"host", b"localhost")]}
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return int(sent[0]["status"])


async def test_a_bad_selection_of_dead_letters_is_a_problem_that_names_the_field(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        for method, path, bad in (("POST", "/dlq/redrive", [*SELECTIONS, *RATES]), ("DELETE", "/dlq", SELECTIONS)):
            for what, body, field in bad:
                assert _told(await http.request(method, path, content=body)) == (422, field), what
            answer = await http.request(method, path, content=b'{"tipe":"NOOP"}')
            assert "did you mean 'type'?" in answer.json()["detail"]
            answer = await http.request(method, path, content=b'{"max_attempts":3}')
            assert "did you mean" not in answer.json()["detail"]
            whole = b'{"ids":null,"type":"","error":null,"older_than_seconds":0,"limit":1,"dry_run":true}'
            assert (await http.request(method, path, content=whole)).json() == {"ids": [], "dry_run": True}
        assert _told(await http.request("DELETE", "/dlq", content=b'{"rate":1}')) == (422, "rate")
        assert _told(await http.get("/nowhere"))[0] == 404
        refused = await http.put("/dlq")
        assert (_told(refused)[0], refused.headers["allow"]) in {(405, "GET"), (405, "DELETE")}


async def test_an_address_beside_a_hot_one_is_not_found_and_leads_nowhere(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, trust_env=False) as http:
        for path in ("/jobs%0A", "/jobs/batch%0A", "/jobs/", "/dlq/redrive/"):
            answer = await http.post(path, json={"type": "NOOP", "payload": {}}, headers={"Host": "evil.example"})
            assert (answer.status_code < 500, "location" in answer.headers) == (True, False), path
            assert answer.status_code in (400, 403, 404, 421), path
        assert (await http.get("/jobs/01a20d5-ad6f07000-8000-0000000000000a")).status_code == 404
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(0,)]
    assert "request_failed" not in cluster.log()


async def test_a_key_is_one_in_header_and_body_in_latin_1_and_utf_8_and_two_are_refused(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, trust_env=False) as http:
        job = {"type": "NOOP", "payload": {}}
        first = await http.post("/jobs", json={**job, "idempotency_key": "ä"})
        keys = [[(b"Idempotency-Key", key)] for key in (b"\xc3\xa4", b"\xe4")]
        answers = [first, *[await http.post("/jobs", json=job, headers=key) for key in keys]]
        assert [answer.status_code for answer in answers] == [202, 200, 200]
        assert len({answer.json()["id"] for answer in answers}) == 1
        two = [(b"Idempotency-Key", b"a"), (b"Idempotency-Key", b"b")]
        assert _told(await http.post("/jobs", json=job, headers=two))[0] == 400
        assert _told(await http.post("/jobs", json=job, headers={"Idempotency-Key": ""})) == (422, "idempotency_key")
    assert cluster.unfinished() == 1


async def test_what_is_no_request_is_answered_with_a_problem(cluster: Cluster) -> None:
    host, port = (await cluster.api()).removeprefix("http://").split(":")
    for raw, status in ((b"\x16\x03\x01\x02\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nA: " + b"b" * 100_000, 431)):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw)
        head, body = (await reader.read()).split(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"content-type: application/problem+json" in head
        assert json.loads(body)["status"] == status


async def test_a_large_batch_is_read_piece_by_piece_with_the_same_answers(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=60, trust_env=False) as http:
        payload = json.dumps({"b": [[]] * 9_000, "a": {str(n): n / 7 for n in range(9_000)}}).encode()
        assert len(payload) > 64 << 10
        jobs = [b'{"type":"NOOP","payload":' + payload + b"}"] * 3
        good = b'{"jobs": [' + b" , ".join(jobs) + b" ] } "
        assert len((await http.post("/jobs/batch", content=good, headers=JSON)).json()["ids"]) == 3
        for bad, status, field in (
            (good.replace(b"] } ", b"]"), 422, "body"),
            (good.replace(b" , ", b" ; "), 422, "body"),
            (good.replace(b'"b": [[]', b'"b": [[}', 1), 422, "jobs[0]"),
            (good.replace(b'"NOOP"', b'"NOPE"'), 422, "jobs[0].type"),
            (good.replace(b"[[]", b"[1e400", 1), 422, "jobs[0].payload"),
            (good.replace(b"[[]", b"[" + b"[" * 101 + b"]" * 101, 1), 422, "jobs[0].payload"),
            (good.replace(b"[[]", b'["' + b"x" * (2 << 20) + b'"', 1), 413, "jobs[0]"),
        ):
            answer = await http.post("/jobs/batch", content=bad, headers=JSON)
            assert _told(answer) == (status, field), answer.text
        keyed = jobs[0][:-1] + b',"idempotency_key":"k"}'
        turned = json.dumps(dict(reversed(json.loads(payload).items()))).encode()
        again = b'{"idempotency_key":"k","type":"NOOP","payload":' + turned + b"}"
        answers = [await http.post("/jobs", content=body, headers=JSON) for body in (keyed, again)]
        assert [answer.status_code for answer in answers] == [202, 200]
    assert cluster.unfinished() == 4
