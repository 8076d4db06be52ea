"""Ids that rise, and one constructor a transition."""

from __future__ import annotations

import os
import time
import uuid

import msgspec
import pytest

from scheduler.jobs.job import ClaimedJob, IdSequence, NewJob, Outcome, id_bytes, id_text
from scheduler.jobs.lifecycle import Transition

MS = 1_000_000
NOW = 1_700_000_000_123 * MS
CLAIM = ClaimedJob(bytes(16), 1, "NOOP", 1, 4, None, b"{}")


def test_an_id_is_a_version_7_uuid_that_carries_its_millisecond() -> None:
    for raw in IdSequence().take(100, NOW, os.urandom(800)):
        parsed = uuid.UUID(bytes=raw)
        assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
        assert parsed.int >> 80 == 1_700_000_000_123


def test_the_twelve_bits_after_the_version_are_the_fraction_of_the_millisecond() -> None:
    half = IdSequence().take(1, NOW + MS // 2, bytes(8))[0]
    assert uuid.UUID(bytes=half).int >> 64 & 0xFFF == 2048


def test_the_last_62_bits_are_the_entropy_given() -> None:
    ids = IdSequence().take(2, NOW, b"\xff" * 8 + b"\x00" * 8)
    assert [int.from_bytes(raw[8:], "big") for raw in ids] == [(1 << 64) - (1 << 62) - 1, 1 << 63]


def test_ids_rise_strictly_within_a_call_across_calls_and_while_the_clock_stands_or_goes_back() -> None:
    sequence = IdSequence()
    taken = [
        raw
        for now in (NOW, NOW, NOW - 3_600_000 * MS, NOW + 1, NOW + 5 * MS, 0)
        for raw in sequence.take(5_000, now, os.urandom(8 * 5_000))
    ]
    assert taken == sorted(set(taken))


def test_ids_of_later_calls_follow_the_clock_when_it_is_ahead() -> None:
    sequence = IdSequence()
    first, later = sequence.take(1, NOW, bytes(8))[0], sequence.take(1, NOW + 60_000 * MS, bytes(8))[0]
    assert (int.from_bytes(later, "big") >> 80) - (int.from_bytes(first, "big") >> 80) == 60_000


def test_raw_ids_and_their_text_are_the_same_thing() -> None:
    [raw] = IdSequence().take(1, time.time_ns(), os.urandom(8))
    assert id_text(raw) == str(uuid.UUID(bytes=raw))
    assert id_bytes(id_text(raw)) == raw
    assert id_bytes(id_text(raw).upper()) == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x" * 36,
        "0" * 32,
        "0" * 35,
        "0" * 37,
        "é" * 36,
        f"{{{'0' * 32}}}",
        "\x00" * 36,
        "0" * 32 + "----",
        "01a20d5-ad6f07000-8000-000000000000a",
    ],
)
def test_what_is_no_uuid_has_no_bytes(text: str) -> None:
    assert id_bytes(text) is None


def test_each_outcome_names_its_transition_and_carries_only_what_belongs_to_it() -> None:
    made = [
        Outcome.complete(CLAIM, '{"a":1}'),
        Outcome.retry(CLAIM, "why", 2.0),
        Outcome.fail(CLAIM, "why"),
        Outcome.snooze(CLAIM, 3.0),
        Outcome.release(CLAIM),
    ]
    assert [(o.transition, o.delay_seconds, o.result, o.error) for o in made] == [
        (Transition.COMPLETE, None, '{"a":1}', None),
        (Transition.RETRY, 2.0, None, "why"),
        (Transition.FAIL, None, None, "why"),
        (Transition.SNOOZE, 3.0, None, None),
        (Transition.RELEASE, 0.0, None, None),
    ]
    assert all(o.job is CLAIM for o in made)


def test_what_becomes_of_a_crash_is_decided_by_the_lifecycle() -> None:
    last = msgspec.structs.replace(CLAIM, attempt=4)
    died = "the worker died: its lease ran out during attempt"
    assert [*map(Outcome.crash, (CLAIM, last))] == [
        Outcome(CLAIM, Transition.RESCUE, 0.0, None, f"{died} 1"),
        Outcome.fail(last, f"{died} 4"),
    ]


@pytest.mark.parametrize(
    ("fields", "delayed"),
    [({}, False), ({"delay_seconds": 0.0}, False), ({"delay_seconds": 1.0}, True), ({"run_at": 0.0}, True)],
)
def test_a_job_is_delayed_by_a_delay_or_a_time_but_not_by_a_delay_of_nothing(
    fields: dict[str, float], delayed: bool
) -> None:
    assert NewJob(bytes(16), "NOOP", "{}", 4, **fields).is_delayed is delayed  # type: ignore[arg-type]
