"""Every way in refuses the same submissions, with the same words, and before any SQL."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import psycopg
import pytest

from scheduler import submit
from scheduler.errors import InvalidJob
from scheduler.testing import run_inline
from tests.cluster import JSON, Cluster

pytestmark = pytest.mark.asyncio

YEAR = 366 * 86_400
SOON = datetime(2030, 1, 1, tzinfo=UTC)


def _deep(levels: int) -> dict[str, Any]:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return {"a": found}


def _of_size(size: int) -> dict[str, Any]:
    return {"a": "x" * (size - len('{"a":""}'))}


# What it is, what is sent besides {"type": "NOOP", "payload": {}}, the field that is named, a part of the reason.
REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("no type", {"type": ""}, "type", 'not ""'),
    ("a type of 5,000 characters", {"type": "x" * 5_000}, "type", "1 to 200 printable characters, not"),
    ("a type with NUL", {"type": "a\x00"}, "type", "printable"),
    ("a type with a line break", {"type": "a\n"}, "type", "printable"),
    ("a type that is null", {"type": None}, "type", "not null"),
    ("a type that is a number", {"type": 5}, "type", "not 5"),
    ("a payload that is a list", {"payload": [1]}, "payload", "a JSON object"),
    ("a payload that is null", {"payload": None}, "payload", "a JSON object"),
    ("a payload that is text", {"payload": "{}"}, "payload", "a JSON object"),
    ("a payload past 1 MiB", {"payload": _of_size((1 << 20) + 1)}, "payload", "1048577 bytes and 1048576 are allowed"),
    ("101 levels", {"payload": _deep(101)}, "payload", "100 levels"),
    ("150 levels", {"payload": _deep(150)}, "payload", "100 levels"),
    ("NUL in a value", {"payload": {"a": ["\\\x00"]}}, "payload", "NUL"),
    ("NUL in a name", {"payload": {"\x00": 1}}, "payload", "NUL"),
    ("an empty key", {"idempotency_key": ""}, "idempotency_key", 'not ""'),
    ("a key of 256 characters", {"idempotency_key": "k" * 256}, "idempotency_key", "1 to 255 printable characters"),
    ("a key of 5,000 characters", {"idempotency_key": "k" * 5_000}, "idempotency_key", "1 to 255"),
    ("a key with NUL", {"idempotency_key": "a\x00"}, "idempotency_key", "printable"),
    ("a key that is a number", {"idempotency_key": 5}, "idempotency_key", "not 5"),
    ("no attempt", {"max_attempts": 0}, "max_attempts", "a whole number, 1 to 1000, not 0"),
    ("fewer attempts than none", {"max_attempts": -3}, "max_attempts", "not -3"),
    ("1,001 attempts", {"max_attempts": 1_001}, "max_attempts", "not 1001"),
    ("more attempts than an int holds", {"max_attempts": 10**30}, "max_attempts", "not 1000"),
    ("attempts as text", {"max_attempts": "3"}, "max_attempts", 'not "3"'),
    ("attempts as a truth value", {"max_attempts": True}, "max_attempts", "not true"),
    ("two and a half attempts", {"max_attempts": 2.5}, "max_attempts", "not 2.5"),
    ("a time-out of zero", {"timeout_seconds": 0}, "timeout_seconds", "above 0, at most 31622400, not 0"),
    ("a time-out before the start", {"timeout_seconds": -1}, "timeout_seconds", "not -1"),
    ("a time-out of more than a year", {"timeout_seconds": YEAR + 1}, "timeout_seconds", "not 31622401"),
    ("a time-out as text", {"timeout_seconds": "1"}, "timeout_seconds", 'not "1"'),
    ("a delay into the past", {"delay_seconds": -1}, "delay_seconds", "not -1"),
    ("a delay of more than a year", {"delay_seconds": YEAR + 1}, "delay_seconds", "not 31622401"),
    ("a delay as text", {"delay_seconds": "1"}, "delay_seconds", 'not "1"'),
    ("a delay as a truth value", {"delay_seconds": False}, "delay_seconds", "not false"),
    ("a time as words", {"run_at": "tomorrow"}, "run_at", 'not "tomorrow"'),
    ("a time as a number", {"run_at": 5}, "run_at", "not 5"),
    ("a time without its offset", {"run_at": SOON.replace(tzinfo=None)}, "run_at", 'not "2030-01-01T00:00:00"'),
    ("a time in the far future", {"run_at": datetime.max.replace(tzinfo=UTC)}, "run_at", "ten years ahead"),
    ("a delay and a time", {"delay_seconds": 0, "run_at": SOON}, "run_at", "not both"),
]
# What JSON cannot say, or says as what it is not.
REFUSED_IN_PYTHON: list[tuple[str, dict[str, Any], str]] = [
    ("NaN as a delay", {"delay_seconds": math.nan}, "delay_seconds"),
    ("an endless delay", {"delay_seconds": math.inf}, "delay_seconds"),
    ("NaN as a time-out", {"timeout_seconds": math.nan}, "timeout_seconds"),
    ("an endless time-out", {"timeout_seconds": math.inf}, "timeout_seconds"),
    ("a type of bytes", {"type": b"NOOP"}, "type"),
    ("a lone surrogate as type", {"type": "\ud800"}, "type"),
    ("a lone surrogate as key", {"idempotency_key": "\ud800"}, "idempotency_key"),
    ("a lone surrogate in the payload", {"payload": {"a": "\ud800"}}, "payload.a"),
    ("NaN in the payload", {"payload": {"a": math.nan}}, "payload.a"),
    ("no JSON in the payload", {"payload": {"a": object()}}, "payload.a"),
    ("a number without end in the payload", {"payload": {"a": 1 << 20_000}}, "payload.a"),
    ("10,000 levels", {"payload": _deep(10_000)}, "payload"),
]
ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("1 MiB", {"payload": _of_size(1 << 20)}),
    ("100 levels", {"payload": _deep(100)}),
    ("brackets in text", {"payload": {"a": '"[' * 200 + "\\", "b": ["]"] * 200}}),
    ("a backslash before u0000", {"payload": {"a": "\\u0000"}}),
    ("255 characters of several bytes as key", {"idempotency_key": "é" * 255}),
    ("1,000 attempts", {"max_attempts": 1_000}),
    ("a time as text", {"run_at": "2030-01-01T00:00:00Z"}),
    ("a year as time-out", {"timeout_seconds": YEAR}),
    ("a year as delay", {"delay_seconds": YEAR}),
    ("nearly ten years", {"run_at": datetime.now(UTC) + timedelta(days=3_650)}),
    ("the first time there is", {"run_at": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))}),
]


def _json(fields: dict[str, Any]) -> bytes:
    """As a client would send it; a time as its text."""
    body = {"type": "NOOP", "payload": {}, **fields}
    return json.dumps(body, default=datetime.isoformat, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """With a transaction under way, which the fixture commits; a job that it holds must be there afterwards."""
    async with await psycopg.AsyncConnection.connect(database_url) as own:
        kept = await submit(own, "NOOP", {"kept": True})
        yield own
        assert own.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        await own.commit()
        cursor = await own.execute("SELECT id::text FROM scheduler.jobs WHERE payload->>'kept' = 'true'")
        assert await cursor.fetchall() == [(kept,)]


async def _refusal(conn: psycopg.AsyncConnection[Any], fields: dict[str, Any]) -> tuple[str, str]:
    """The field and the whole message of what `submit` raises."""
    arguments = {"type": "NOOP", "payload": {}, **fields}
    with pytest.raises(InvalidJob) as caught:
        await submit(conn, **arguments)
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS, "no statement has failed"
    return caught.value.field, str(caught.value)


async def test_each_door_refuses_it_with_the_same_field_and_reason_and_the_transaction_lives_on(
    cluster: Cluster, conn: psycopg.AsyncConnection[Any]
) -> None:
    in_sql = {what: await _refusal(conn, fields) for what, fields, _, _ in REFUSED}
    over_http, in_batch = {}, {}
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        for what, fields, field, _ in REFUSED:
            problem = (await http.post("/jobs", content=_json(fields))).json()
            over_http[what] = (problem["field"], problem["detail"])
            good = [_json({})] * 2
            body = b'{"jobs":[' + b",".join([*good, _json(fields), *good]) + b"]}"
            problem = (await http.post("/jobs/batch", content=body)).json()
            assert problem["field"] == f"jobs[2].{field}", what
            in_batch[what] = (field, problem["detail"].removeprefix("jobs[2]."))
    assert cluster.rows("SELECT count(*) FROM scheduler.jobs") == [(0,)]
    assert over_http == in_sql
    assert in_batch == in_sql
    for what, _, field, part in REFUSED:
        assert in_sql[what][0] == field, what
        assert part in in_sql[what][1], what


async def test_what_only_python_can_say_is_refused_before_any_sql(conn: psycopg.AsyncConnection[Any]) -> None:
    for what, fields, field in REFUSED_IN_PYTHON:
        assert (await _refusal(conn, fields))[0] == field, what


async def test_what_lies_within_the_bounds_is_taken_by_each_door_and_by_the_database(
    cluster: Cluster, conn: psycopg.AsyncConnection[Any]
) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        for what, fields in ALLOWED:
            answer = await http.post("/jobs", content=_json(fields))
            assert answer.status_code == 202, what
            job_id = await submit(conn, **{"type": "NOOP", "payload": {}, **fields})
            if "idempotency_key" in fields:
                assert job_id == answer.json()["id"], what
    await submit(conn, "🚀" * 200, {})


async def test_values_of_a_users_own_classes_are_taken_for_what_they_are(conn: psycopg.AsyncConnection[Any]) -> None:
    class Types(enum.StrEnum):
        NOOP = "NOOP"

    class Frozen(datetime):
        pass

    first = await submit(conn, Types.NOOP, {}, run_at=Frozen(2030, 1, 1, tzinfo=UTC), idempotency_key="k")
    assert await submit(conn, "NOOP", {}, run_at=SOON, idempotency_key="k") == first


async def test_whole_seconds_are_the_same_submission_through_both_doors(
    cluster: Cluster, conn: psycopg.AsyncConnection[Any]
) -> None:
    fields: dict[str, Any] = {"delay_seconds": 5, "timeout_seconds": 7, "idempotency_key": "whole"}
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=30, headers=JSON, trust_env=False) as http:
        answer = await http.post("/jobs", content=_json(fields))
    assert await submit(conn, "NOOP", {}, **fields) == answer.json()["id"]


@pytest.mark.parametrize("options", [{"max_attempts": 1_001}, {"max_attempts": "3"}, {"timeout_seconds": -1}])
async def test_the_inline_door_has_the_same_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match=f"^{next(iter(options))}: must be "):
        await run_inline("NOOP", {}, **options)


BROKEN: list[tuple[str, bytes, str]] = [
    ("NaN", b'{"type":"NOOP","payload":{"a":NaN}}', "at byte 30: JSON is malformed"),
    ("invalid UTF-8 in the type", b'{"type":"N\xff","payload":{}}', "at byte 10: invalid start byte"),
    (
        "a high surrogate alone",
        b'{"type":"NOOP","payload":{"a":"\\ud800","b":123}}',
        "at byte 31: lone surrogate \\ud800",
    ),
    ("a low surrogate alone", b'{"type":"NOOP","payload":{"a":"\\udc00"}}', "at byte 31: lone surrogate \\udc00"),
    ("a surrogate at the end", b'{"type":"NOOP","payload":{"a":"\\ud800"}}', "at byte 31: lone surrogate \\ud800"),
    ("a break behind a pair", b'{"type":"NOOP","payload":{"a":"\\ud83d\\ude00",}', "at byte 45: JSON is malformed"),
    ("half a body", b'{"type":"NOOP","payl', "at byte 20: Input data was truncated"),
    ("quotes without end", b'{"type":"NOOP","payload":{"a":"' + b'\\"' * 500_000 + b'\x01"}}', "at byte 1000031"),
]


async def test_a_body_that_is_no_json_is_answered_with_the_byte_where_it_breaks(cluster: Cluster) -> None:
    async with httpx.AsyncClient(base_url=await cluster.api(), timeout=10, headers=JSON, trust_env=False) as http:
        for what, body, reason in BROKEN:
            problem = (await http.post("/jobs", content=body)).json()
            assert (problem["field"], reason in problem["detail"]) == ("body", True), (what, problem)
