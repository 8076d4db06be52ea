"""The model: the protocol holds in every order of its steps, and each of its rules is missed when it is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from chaos.controls.control import every as controls
from chaos.model.explore import Bounds, Graph, Result, explore
from chaos.model.protocol import GOALS, Protocol
from chaos.model.state import Row, State, canonical, start
from chaos.model.steps import Steps
from chaos.model.variants import BROKEN, HARMLESS, HEALTHY, LOST, NONE, Case, report, rules
from chaos.model.words import DELIVERED
from scheduler.jobs.lifecycle import RULES, Status, Transition
from tests.cluster import ROOT

EVERY = (*HEALTHY, *BROKEN, *HARMLESS)


@cache
def result(case: int) -> Result:
    return EVERY[case].explore()


def given(case: Case) -> str:
    return ", ".join(f"{times} {fault}" for fault, times in case.faults._asdict().items() if times) or "none"


def cases(some: Sequence[Case]) -> list[object]:
    wanted = [at for at, case in enumerate(EVERY) if any(case is one for one in some)]
    return [pytest.param(at, id=f"{EVERY[at].name}-{given(EVERY[at])}") for at in wanted]


@pytest.mark.parametrize("case", cases(HEALTHY))
def test_the_protocol_keeps_its_promises_in_every_order_of_its_steps(case: int) -> None:
    assert result(case).violated == "", result(case).trace


@pytest.mark.parametrize("case", cases(BROKEN))
def test_a_protocol_without_one_of_its_rules_breaks_the_promise_that_rests_on_it(case: int) -> None:
    assert (result(case).violated, bool(result(case).trace)) == (EVERY[case].breaks, True)


@pytest.mark.parametrize("case", cases(HARMLESS))
def test_what_the_protocol_does_not_rest_on_may_be_left_out(case: int) -> None:
    assert result(case).violated == "", result(case).trace


def test_a_variant_that_bears_the_name_of_a_control_breaks_a_promise_of_that_control() -> None:
    shared = [case for case in BROKEN if case.name in controls()]
    assert len(shared) >= 10
    assert [case.name for case in shared if case.breaks not in controls()[case.name].breaks] == []


def test_a_counterexample_is_the_shortest_way_in_words() -> None:
    rescuer_off = next(at for at, case in enumerate(EVERY) if case.name == "rescuer-off")
    assert result(rescuer_off).trace == (
        "a client submits the job",
        "the API inserts the job",
        "the API publishes the job",
        "worker 1 reads the job",
        "worker 1 claims the job",
        "worker 1 is killed, and another starts in its place",
    )


# -- the explorer can fail


class ClaimsInVain(Protocol):
    """A livelock: delivered, dropped and reconciled for ever; never stuck in one state."""

    def may_claim(self, s: State, w: int, row: Row) -> bool:
        return False


class NeverReads(Protocol):
    def read(self, s: State, w: int, j: int) -> Steps:
        yield from ()


@pytest.mark.parametrize("protocol", [ClaimsInVain, NeverReads])
def test_a_job_that_never_ends_is_found_whether_it_goes_round_or_stands_still(protocol: type[Protocol]) -> None:
    assert explore(protocol(), Bounds(NONE)).violated == "terminal"


def test_a_goal_that_is_reached_again_and_again_but_never_kept_is_missed() -> None:
    def is_in_hand(s: State) -> bool:
        return s.jobs[0].row is None or any(worker.hands[0].stage == DELIVERED for worker in s.workers)

    assert Graph(ClaimsInVain(), Bounds(NONE)).doomed(is_in_hand) is not None


def test_every_goal_is_missed_by_some_state_on_the_way() -> None:
    states = Graph(Protocol(max_attempts=1), Bounds(NONE, max_attempts=1)).states
    assert {promise for promise, goal in GOALS.items() if not all(map(goal, states))} == set(GOALS)


def test_a_step_that_no_fault_explains_is_not_taken_when_nothing_may_go_wrong() -> None:
    calm = Graph(Protocol(), Bounds(NONE)).states
    assert all(not job.strays and not job.dying for state in calm for job in state.jobs)
    assert all(worker.mode == "alive" and worker.lease == "held" for state in calm for worker in state.workers)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
def test_both_ends_of_a_job_are_reached(status: Status) -> None:
    rows = [state.jobs[0].row for state in Graph(Protocol(), Bounds(NONE)).states]
    assert any(row and row.status is status for row in rows)


# -- it stands on the product's table


def test_another_table_has_another_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(RULES[Transition.COMPLETE], target=Status.PENDING)
    monkeypatch.setitem(RULES, Transition.COMPLETE, wrong)
    assert explore(Protocol(max_attempts=1), Bounds(NONE, max_attempts=1)).violated != ""


def test_an_arrow_taken_from_the_table_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, Transition.RETRY, replace(RULES[Transition.RETRY], sources=frozenset()))
    assert explore(Protocol(), Bounds(NONE)).violated == "lifecycle"


def test_a_variant_gives_the_table_back() -> None:
    before = dict(RULES)
    with rules({Transition.RESCUE: {"attempt": -1}}):
        assert before != RULES
    assert before == RULES


# -- states that differ by the order of the workers only are one


def test_the_mirror_image_of_a_state_is_the_same_state() -> None:
    state = start(1, 2, NONE).put(0, row=Row(Status.PROCESSING, 1, holder=0)).put_hand(1, 0, stage=DELIVERED)
    mirrored = start(1, 2, NONE).put(0, row=Row(Status.PROCESSING, 1, holder=1)).put_hand(0, 0, stage=DELIVERED)
    assert canonical(state) == canonical(mirrored)
    assert canonical(state) != canonical(state.put_row(0, holder=1))


# -- the numbers in the essay


def line(at: int) -> str:
    case, found = EVERY[at], result(at)
    if case.breaks:
        return f"| `{case.name}` | {case.does} | {given(case)} | {found.violated} | {len(found.trace)} |"
    if case in HARMLESS:
        return f"| `{case.name}` | {case.does} | {given(case)} |"
    return f"| {given(case)} | {case.max_attempts} | {found.states:,} |"


@pytest.mark.parametrize("case", cases(EVERY))
def test_the_essay_says_what_the_model_found(case: int) -> None:
    assert line(case) in (ROOT / "docs/protocol.md").read_text()


def test_the_report_has_a_row_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.model.variants.HEALTHY", HEALTHY[2:3])
    monkeypatch.setattr("chaos.model.variants.BROKEN", BROKEN[:1])
    monkeypatch.setattr("chaos.model.variants.HARMLESS", [])
    lost = next(at for at, case in enumerate(EVERY) if case.faults == LOST)
    found = [(each.case.name, each.states, each.violated, each.steps, each.as_expected) for each in report()]
    assert found == [
        ("healthy", result(lost).states, "", 0, True),
        ("settle-before-body", 17, "at-least-once", 5, True),
    ]
