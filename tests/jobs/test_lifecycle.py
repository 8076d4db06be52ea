"""The table of transitions against the sentence it must spell, the schema that repeats it, and the picture of it."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import pytest

from scheduler.jobs.lifecycle import (
    FINAL,
    RULES,
    Rule,
    Status,
    Transition,
    after_death,
    after_failure,
    apply,
    diagram,
)
from tests.cluster import ROOT

PENDING, PROCESSING, COMPLETED, FAILED, CANCELLED = Status
T = Transition

# Every legal arrow, written out by hand: (from, by) -> (to, what a job in its attempt 3 shows afterwards).
ARROWS = {
    (PENDING, T.CLAIM): (PROCESSING, 4),
    (PROCESSING, T.RECLAIM): (PROCESSING, 3),
    (PROCESSING, T.COMPLETE): (COMPLETED, 3),
    (PROCESSING, T.RETRY): (PENDING, 3),
    (PROCESSING, T.FAIL): (FAILED, 3),
    (PROCESSING, T.SNOOZE): (PENDING, 2),
    (PROCESSING, T.RELEASE): (PENDING, 2),
    (PROCESSING, T.RESCUE): (PENDING, 3),
    (PENDING, T.CANCEL): (CANCELLED, 3),
    (PROCESSING, T.CANCEL): (CANCELLED, 3),
    (FAILED, T.REDRIVE): (PENDING, 0),
}
ILLEGAL = sorted(set(product(Status, Transition)) - set(ARROWS))


@pytest.mark.parametrize(("source", "transition"), ARROWS)
def test_a_legal_arrow_leads_where_it_should(source: Status, transition: Transition) -> None:
    assert apply(source, 3, transition) == ARROWS[source, transition]


@pytest.mark.parametrize(("source", "transition"), ILLEGAL)
def test_an_arrow_outside_the_table_is_refused_naming_both_ends(source: Status, transition: Transition) -> None:
    with pytest.raises(ValueError, match=f"^{transition} cannot start from {source}; it starts from"):
        apply(source, 1, transition)


def test_every_transition_has_a_rule_and_every_status_is_reached() -> None:
    assert set(RULES) == set(Transition)
    assert {rule.target for rule in RULES.values()} == set(Status)


def test_a_final_status_is_left_by_a_redrive_only() -> None:
    assert {status for status in Status if status.is_final} == FINAL == {COMPLETED, FAILED, CANCELLED}
    assert {t for t, rule in RULES.items() if rule.sources & FINAL} == {T.REDRIVE}


@pytest.mark.parametrize(("attempt", "is_last"), [(1, False), (3, False), (4, True), (5, True)])
def test_a_failure_or_a_death_in_the_last_attempt_fails_the_job_and_any_other_gives_it_back(
    attempt: int, is_last: bool
) -> None:
    assert after_failure(attempt, 4) is (T.FAIL if is_last else T.RETRY)
    assert after_death(attempt, 4) is (T.FAIL if is_last else T.RESCUE)


def test_the_table_says_what_else_a_transition_does_to_the_row() -> None:
    plain = {t: replace(rule, sources=frozenset(), target=PENDING, attempt=0) for t, rule in RULES.items()}
    claim, keep, later = Rule(frozenset(), PENDING, fence=+1), Rule(frozenset(), PENDING), replace
    assert plain == {
        T.CLAIM: claim,
        T.RECLAIM: claim,
        T.COMPLETE: keep,
        T.RETRY: later(keep, crashes=None, moves_due=True),
        T.FAIL: keep,
        T.SNOOZE: later(keep, moves_due=True),
        T.RELEASE: keep,
        T.RESCUE: later(keep, crashes=+1, moves_due=True, at_once=True),
        T.CANCEL: keep,
        T.REDRIVE: later(keep, crashes=None, moves_due=True, at_once=True),
    }


def test_the_schema_allows_the_same_statuses_and_calls_the_same_ones_final() -> None:
    schema = (ROOT / "scheduler/storage/migrations/0001_schema.sql").read_text()
    everything, final = (
        set(re.findall(r"'([A-Z]+)'", found)) for found in re.findall(r"status IN \(([^)]*)\)", schema)
    )
    assert everything == set(Status)
    assert final == FINAL


def test_the_diagram_draws_each_arrow_once_and_the_protocol_shows_that_diagram() -> None:
    drawn = re.findall(r"^    ([A-Z]+) --> ([A-Z]+): ([a-z]+)$", diagram(), re.MULTILINE)
    assert sorted(drawn) == sorted((source, to, by) for (source, by), (to, _) in ARROWS.items())
    assert diagram() in (ROOT / "docs/protocol.md").read_text()
