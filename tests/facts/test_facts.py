"""Telling a fact: who hears it, in what order, and what the log says of it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.errors import StoreUnavailable
from scheduler.facts import log
from scheduler.facts.facts import (
    CLAIMED,
    DELIVERED,
    JOB_CANCELLED,
    LEASE_LOST,
    PUBLISHED,
    RESCUED,
    TICK_FAILED,
    Fact,
    Told,
    listen,
    tally,
    tell,
)
from scheduler.jobs.job import ClaimedJob, Outcome, id_text
from scheduler.storage.stream import Delivery
from scheduler.testing import trace

RAW = bytes.fromhex("0193a5b0c0de7000800000000000000a")
JOB = ClaimedJob(RAW, 1, "NOOP", 1, 4, None, b"{}")


@pytest.fixture
def heard() -> Iterator[list[Told]]:
    """What was told of CLAIMED."""
    found: list[Told] = []
    end = listen(CLAIMED, found.append)
    yield found
    end()


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """The log of a process named `test`, on standard error; logging is as before afterwards."""
    root, own = logging.getLogger(), logging.getLogger("scheduler")
    before = root.handlers[:], root.level, own.level
    yield capsys
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    own.setLevel(before[2])


def test_a_listener_hears_how_many_and_which_until_it_ends(heard: list[Told]) -> None:
    tell(CLAIMED, [JOB, JOB])
    tell(CLAIMED, 3)
    assert [(told.amount, list(told.of)) for told in heard] == [(2, [JOB, JOB]), (3, [])]
    again: list[Told] = []
    end = listen(CLAIMED, again.append)
    tell(CLAIMED)
    end()
    tell(CLAIMED)
    assert (len(heard), len(again)) == (4, 1)


def test_a_listener_may_end_itself_while_the_others_are_still_to_hear() -> None:
    fact, told = Fact("own", "things"), []

    def once(_: Told) -> None:
        told.append("once")
        end()

    end = listen(fact, once)
    listen(fact, lambda _: told.append("always"))
    tell(fact)
    tell(fact)
    assert told == ["once", "always", "always"]


@pytest.mark.parametrize("nothing", [0, [], {}, set()])
def test_what_happened_to_nothing_is_not_told(heard: list[Told], nothing: list[bytes]) -> None:
    before = dict(tally)
    tell(CLAIMED, nothing)
    assert heard == []
    assert dict(tally) == before


def test_units_are_counted_where_the_record_says_so() -> None:
    before = tally.copy()
    tell(CLAIMED, [JOB, JOB])
    tell(CLAIMED, 3)
    tell(DELIVERED, 7)
    assert tally - before == {"claimed": 5}


def test_a_listener_that_loses_the_reply_keeps_it_from_being_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def lose(_: Told) -> None:
        raise StoreUnavailable("PostgreSQL", "lost")

    before, end = tally.copy(), listen(RESCUED, lose)
    with pytest.raises(StoreUnavailable):
        tell(RESCUED, [RAW], dead_lettered=0)
    end()
    assert (tally, caplog.records) == (before, [])
    tell(RESCUED, [RAW], dead_lettered=0)
    assert [record.message for record in caplog.records] == ["rescued"]


def test_the_log_shows_the_fields_in_the_order_of_the_record(logged: pytest.CaptureFixture[str]) -> None:
    log.configure("test")
    tell(RESCUED, [RAW, RAW], dead_lettered=1)
    tell(LEASE_LOST, [Outcome.complete(JOB, None)])
    tell(CLAIMED, [JOB])
    lines = logged.readouterr().err.splitlines()
    assert [line.split("Z ", 1)[1] for line in lines] == [
        f"WARNING test rescued jobs=2 dead_lettered=1 first={id_text(RAW)}",
        f"WARNING test lease_lost jobs=1 first={id_text(RAW)}",
    ]


def test_the_log_is_as_silent_as_its_level_says(logged: pytest.CaptureFixture[str]) -> None:
    log.configure("test", "WARNING")
    tell(JOB_CANCELLED, job_id="x")
    assert logged.readouterr().err == ""
    log.configure("test", "INFO")
    tell(JOB_CANCELLED, job_id="x")
    assert "job_cancelled job_id=x" in logged.readouterr().err


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_is_logged_with_its_traceback(log_format: str, logged: pytest.CaptureFixture[str]) -> None:
    log.configure("test", log_format=log_format)
    try:
        _ = 1 // int("0")
    except ZeroDivisionError as error:
        tell(TICK_FAILED, service="reader", trace=error)
    text = logged.readouterr().err
    if log_format == "json":
        line = json.loads(text)
        assert (line["event"], line["level"], line["service"]) == ("tick_failed", "ERROR", "reader")
        text = line["trace"]
    else:
        assert "ERROR   test tick_failed service=reader\n  | Traceback" in text
    assert "ZeroDivisionError: " in text.splitlines()[-1]


def test_a_trace_is_one_line_a_fact_with_time_process_and_ids(tmp_path: Path) -> None:
    end = trace(tmp_path / "trace.jsonl")
    tell(PUBLISHED, [RAW])
    tell(DELIVERED, [Delivery(b"1700000000000-10", RAW), Delivery(b"1-1", b"\xffgarbage")])
    tell(RESCUED, 2, dead_lettered=1)
    end()
    tell(PUBLISHED, [RAW])
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    times = [line.pop("at") for line in lines]
    assert times == sorted(times)
    pid = os.getpid()
    assert lines == [
        {"pid": pid, "fact": "published", "amount": 1, "ids": [id_text(RAW)]},
        {"pid": pid, "fact": "delivered", "amount": 2, "ids": [id_text(RAW), "\ufffdgarbage"]},
        {"pid": pid, "fact": "rescued", "amount": 2, "ids": [], "dead_lettered": 1},
    ]
