"""The HTTP surface on a real API process: bad input, idempotency, admission control, paging, auth."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.embedded import free_port
from tests.cluster import JSON, Cluster, eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.e2e]


def _noop(payload: bytes = b"{}", more: bytes = b"") -> bytes:
    return b'{"type":"NOOP","payload":' + payload + more + b"}"


BAD: list[tuple[str, bytes, int, str]] = [
    ("a payload that is no object", _noop(b"[1]"), 422, "payload"),
    ("NaN", _noop(b'{"a":NaN}'), 422, "body"),
    ("NUL", _noop(b'{"a":"x\\u0000"}'), 422, "payload"),
    ("10,000 lists deep", _noop(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"), 422, "payload"),
    ("10,000 objects deep", _noop(b'{"a":' * 10_000 + b"1" + b"}" * 10_000), 422, "payload"),
    ("101 lists deep", _noop(b'{"a":' + b"[" * 101 + b"]" * 101 + b"}"), 422, "payload"),
    ("more than 1 MiB", _noop(b'{"a":"' + b"x" * (1 << 20) + b'"}'), 413, "payload"),
    ("a body past every limit", _noop(b'{"a":"' + b"x" * (2 << 20) + b'"}'), 413, "body"),
    ("a control character", _noop(b'{"a":"\x01"}'), 422, "body"),
    ("invalid UTF-8", _noop(b'{"a":"\xff"}'), 422, "payload"),
    ("a lone surrogate", _noop(b'{"a":"\\ud800"}'), 422, "body"),
    ("a number beyond every float", _noop(b'{"a":1e400}'), 422, "payload"),
    ("no payload", b'{"type":"NOOP"}', 422, "payload"),
    ("no JSON", b"", 422, "body"),
    ("a list", b"[]", 422, "body"),
    ("an unknown type", b'{"type":"EMIAL","payload":{}}', 422, "type"),
    ("a type with NUL", b'{"type":"NO\\u0000OP","payload":{}}', 422, "type"),
    ("a type that is a number", b'{"type":1,"payload":{}}', 422, "type"),
    ("an unknown field", _noop(more=b',"max_atempts":3'), 422, "max_atempts"),
    ("a negative delay", _noop(more=b',"delay_seconds":-1'), 422, "delay_seconds"),
    ("a time without offset", _noop(more=b',"run_at":"2030-01-01T00:00:00"'), 422, "run_at"),
    ("a time in the far future", _noop(more=b',"run_at":"9999-12-31T23:59:59Z"'), 422, "run_at"),
    ("no attempts", _noop(more=b',"max_attempts":0'), 422, "max_attempts"),
    ("more attempts than an int holds", _noop(more=b',"max_attempts":99999999999999999999'), 422, "max_attempts"),
    ("a time-out of zero", _noop(more=b',"timeout_seconds":0'), 422, "timeout_seconds"),
    ("an empty key", _noop(more=b',"idempotency_key":""'), 422, "idempotency_key"),
    ("a key with NUL", _noop(more=b',"idempotency_key":"a\\u0000"'), 422, "idempotency_key"),
]
BAD_BATCHES: list[tuple[str, list[dict[str, Any]], str]] = [
    ("10,001 jobs", [{"type": "NOOP", "payload": {}}] * 10_001, "jobs"),
    ("no job", [], "jobs"),
    (
        "one bad job among good ones",
        [{"type": "NOOP", "payload": {}}, {"type": "NOOP", "payload": 3}],
        "jobs[1].payload",
    ),
    ("a key twice", [{"type": "NOOP", "payload": {}, "idempotency_key": "k"}] * 2, "jobs[1].idempotency_key"),
]


def _problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    return problem


async def test_bad_input_is_a_problem_that_names_the_field_and_writes_nothing(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        for what, body, status, field in BAD:
            answer = await http.post("/jobs", content=body)
            assert (answer.status_code, _problem(answer)["field"]) == (status, field), what
        for what, jobs, field in BAD_BATCHES:
            answer = await http.post("/jobs/batch", json={"jobs": jobs})
            assert (answer.status_code, _problem(answer)["field"]) == (422, field), what
        for path in ("/jobs?cursor=abc", "/jobs?limit=0", "/jobs?status=X", "/jobs?type=%00", "/dlq?cursor=%F0"):
            answer = await http.get(path)
            assert (answer.status_code, _problem(answer)["field"] in path) == (422, True), path
        assert _problem(await http.get("/jobs/nonsense"))["status"] == 404
        assert "EMAIL" in _problem(await http.post("/jobs", content=BAD[15][1]))["detail"]
        assert "max_attempts" in _problem(await http.post("/jobs", content=BAD[18][1]))["detail"]
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(0,)]


async def test_a_key_makes_one_job_and_another_body_is_refused(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        key = {"Idempotency-Key": "order-1"}
        first = await http.post("/jobs", content=_noop(b'{"a":1,"b":2}'), headers=key)
        again = await http.post("/jobs", content=b'{"payload": {"b": 2, "a": 1}, "type": "NOOP"}', headers=key)
        other = await http.post("/jobs", content=_noop(b'{"a":2}'), headers=key)
        assert (first.status_code, again.status_code, other.status_code) == (202, 200, 409)
        assert first.headers["location"] == f"/jobs/{first.json()['id']}"
        assert again.json()["id"] == first.json()["id"]
        batch = [{"type": "NOOP", "payload": {"n": n}} for n in range(3)]
        clash = {"type": "NOOP", "payload": {"a": 9}, "idempotency_key": "order-1"}
        refused = await http.post("/jobs/batch", json={"jobs": [*batch, clash]})
        assert (refused.status_code, cluster.unfinished()) == (409, 1)
        repeat = {"type": "NOOP", "payload": {"a": 1, "b": 2}, "idempotency_key": "order-1"}
        fresh = {"type": "NOOP", "payload": {}, "idempotency_key": "order-2"}
        taken = await http.post("/jobs/batch", json={"jobs": [fresh, *batch, repeat]})
        assert (taken.status_code, taken.json()["ids"][4]) == (202, first.json()["id"])
        known = {str(row[0]) for row in cluster.rows("SELECT id FROM scheduler.jobs")}
        assert known == set(taken.json()["ids"])


async def test_one_key_sent_at_once_through_two_apis_is_one_job(cluster: Cluster) -> None:
    urls = [await cluster.api(), await cluster.api()]
    async with httpx.AsyncClient(timeout=30, headers=JSON, trust_env=False) as http:
        body = {"type": "NOOP", "payload": {}, "idempotency_key": "same"}
        answers = await asyncio.gather(*[http.post(f"{urls[n % 2]}/jobs", json=body) for n in range(50)])
        assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
        assert sorted({answer.status_code for answer in answers}) == [200, 202]
        assert sum(answer.status_code == 202 for answer in answers) == 1
    assert cluster.unfinished() == 1


async def test_a_full_backlog_refuses_with_429_and_drops_nothing(cluster: Cluster) -> None:
    async with httpx.AsyncClient(
        base_url=await cluster.api(max_backlog=20), timeout=30, headers=JSON, trust_env=False
    ) as http:
        answers = [await http.post("/jobs", content=_noop()) for _ in range(25)]
        assert [answer.status_code for answer in answers] == [202] * 20 + [429] * 5
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert cluster.unfinished() == 20
        await cluster.worker()
        await eventually(lambda: cluster.unfinished() == 0)
        assert (await http.post("/jobs", content=_noop())).status_code == 202


async def test_without_postgres_503_says_when_to_retry_and_without_redis_jobs_are_accepted(cluster: Cluster) -> None:
    nowhere = free_port()
    url = await cluster.api()
    for name, value in (
        ("postgres", f"postgresql://x:y@127.0.0.1:{nowhere}/x"),
        ("redis", f"redis://127.0.0.1:{nowhere}/0"),
    ):
        port = free_port()
        setting = "database_url" if name == "postgres" else "redis_url"
        cluster.start("api", port=port, **{setting: value})
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, timeout=30, headers=JSON, trust_env=False) as http:
            await eventually(partial(_answers, http), within=20)
            answer = await http.post("/jobs", content=_noop())
            if name == "redis":
                assert answer.status_code == 202
                continue
            assert (answer.status_code, _problem(answer)["title"]) == (503, "Store unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert (await http.get("/readyz")).status_code == 503
    await cluster.worker()
    await eventually(lambda: cluster.unfinished() == 0, of="the job that Redis never heard of")


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/healthz")).is_success
    except httpx.TransportError:
        return False


async def test_paging_is_newest_first_and_stable_while_jobs_come_in(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        ids = (await http.post("/jobs/batch", json={"jobs": [json.loads(_noop())] * 25})).json()["ids"]
        seen: list[str] = []
        cursor: str | None = None
        while True:
            page = (await http.get("/jobs", params={"limit": 10, **({"cursor": cursor} if cursor else {})})).json()
            seen += [job["id"] for job in page["jobs"]]
            await http.post("/jobs", content=_noop())
            if (cursor := page["next_cursor"]) is None:
                break
        assert seen == ids[::-1]


async def test_keys_guard_everything_but_health(cluster: Cluster) -> None:
    async with httpx.AsyncClient(
        base_url=await cluster.api(api_keys="one,two"), timeout=30, headers=JSON, trust_env=False
    ) as http:
        guarded = ["POST /jobs", "POST /jobs/batch", "GET /jobs", "GET /dlq", "GET /stats", "GET /metrics"]
        for method, path in (request.split() for request in guarded):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert (await http.get("/healthz")).status_code == 200
        wrong = await http.get("/jobs", headers={"Authorization": "Bearer three"})
        right = await http.get("/jobs", headers={"Authorization": "Bearer two"})
        assert (wrong.status_code, right.status_code) == (401, 200)


async def test_dead_letters_can_be_listed_sent_back_and_purged(cluster: Cluster) -> None:
    cluster.settings["BACKOFF_BASE_SECONDS"] = "0.1"
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        await cluster.worker()
        body = {"type": "FAIL", "payload": {"message": "no disk"}, "max_attempts": 1}
        ids = (await http.post("/jobs/batch", json={"jobs": [body] * 3})).json()["ids"]
        await eventually(lambda: cluster.unfinished() == 0)
        dry = await http.post("/dlq/redrive", json={"error": "DISK", "dry_run": True})
        assert sorted(dry.json()["ids"]) == sorted(ids)
        assert len((await http.get("/dlq")).json()["jobs"]) == 3
        sent = await http.post("/dlq/redrive", json={"ids": ids[:1]})
        assert sent.json()["ids"] == ids[:1]
        await eventually(lambda: cluster.rows("SELECT fence FROM scheduler.jobs WHERE id = %s", ids[0]) == [(2,)])
        await eventually(lambda: cluster.unfinished() == 0)
        gone = await http.request("DELETE", "/dlq", json={"type": "FAIL"})
        assert sorted(gone.json()["ids"]) == sorted(ids)
        await eventually(lambda: cluster.redis_lengths()["dlq"] == 0)
        assert (await http.get(f"/jobs/{ids[0]}")).status_code == 404


async def test_a_long_poll_answers_at_completion_and_what_is_said_is_documented(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        await cluster.worker()
        past = await http.post("/jobs", content=_noop(more=b',"run_at":"2001-01-01T00:00:00Z"'))
        final = (await http.get(f"/jobs/{past.json()['id']}", params={"wait": 20})).json()
        assert (final["status"], final["attempts"][0]["status"]) == ("COMPLETED", "COMPLETED")
        metrics = (await http.get("/metrics")).text
        families = {family.name for family in text_string_to_metric_families(metrics)}
        assert {"scheduler_workers", "scheduler_dead_letters", "scheduler_submitted"} <= families
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert {"/jobs", "/jobs/batch", "/jobs/{id}", "/jobs/{id}/cancel", "/dlq", "/dlq/redrive", "/stats"} <= set(
            paths
        )
