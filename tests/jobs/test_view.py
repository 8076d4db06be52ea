"""A job as the API shows it: which attempts it has, and what its JSON looks like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from scheduler.jobs.view import Attempt, JobRow, shown

EARLIER, NOW, LATER = (datetime(2030, 1, 1, 12, minute, tzinfo=UTC) for minute in range(3))
FAILED = Attempt(1, "FAILED", "w", EARLIER, NOW, "why")


def row(status: str, **fields: Any) -> JobRow:
    summary = {"id": "i", "type": "T", "attempt": 2, "max_attempts": 4, "created_at": EARLIER, "run_at": EARLIER}
    ends = {"started_at": NOW, "finished_at": None, "error": None}
    rest = {"payload": b'{"a": 1}', "result": None, "timeout_seconds": None, "idempotency_key": None, "worker_id": "w"}
    return JobRow(**{"status": status, **summary, **ends, **rest, **fields})


@pytest.mark.parametrize("status", ["PROCESSING", "COMPLETED", "CANCELLED"])
def test_the_attempt_that_runs_completed_or_was_cancelled_comes_after_those_that_failed(status: str) -> None:
    assert shown(row(status), [FAILED]).attempts == [FAILED, Attempt(2, status, "w", NOW, None, None)]


@pytest.mark.parametrize("status", ["PENDING", "FAILED"])
def test_a_job_that_waits_or_failed_has_no_attempt_but_the_recorded_ones(status: str) -> None:
    assert shown(row(status), [FAILED]).attempts == [FAILED]


@pytest.mark.parametrize("status", ["PROCESSING", "COMPLETED", "CANCELLED"])
def test_an_attempt_that_is_recorded_already_is_not_shown_twice(status: str) -> None:
    assert shown(row(status, started_at=EARLIER), [FAILED]).attempts == [FAILED]


def test_a_job_cancelled_before_it_ever_ran_has_no_attempt() -> None:
    assert shown(row("CANCELLED", started_at=None, attempt=0), []).attempts == []


def test_the_json_has_the_payload_and_result_as_they_were_sent_and_no_column_of_ours() -> None:
    encoded = msgspec.json.encode(shown(row("COMPLETED", result=b"[1,  2]", finished_at=LATER), []))
    assert encoded.decode() == (
        '{"id":"i","type":"T","status":"COMPLETED","attempt":2,"max_attempts":4,"created_at":"2030-01-01T12:00:00Z",'
        '"run_at":"2030-01-01T12:00:00Z","started_at":"2030-01-01T12:01:00Z","finished_at":"2030-01-01T12:02:00Z",'
        '"error":null,"payload":{"a": 1},"result":[1,  2],"timeout_seconds":null,"idempotency_key":null,"attempts":['
        '{"attempt":2,"status":"COMPLETED","worker_id":"w","started_at":"2030-01-01T12:01:00Z",'
        '"finished_at":"2030-01-01T12:02:00Z","error":null,"traceback":null}]}'
    )
