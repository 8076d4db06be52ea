"""Guards against runs that prove nothing, and the verdict on a whole run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.judge import guards, judge
from chaos.judge.guards import GUARDS
from chaos.judge.promise import Promise
from chaos.record.plan import Guards
from tests.stories import A, B, Story

WELL = Guards(faults=1, overlap=True, redelivery=True)


def troubled() -> Story:
    story = Story().done("j")
    story.manifest.troubles.append("Toxiproxy hung in POST /reset for 5 s")
    return story


HOLLOW: list[tuple[str, Promise, Callable[[], Story]]] = [
    ("no fault fired", guards.faults_fired, lambda: Story(WELL).done("j")),
    (
        "the fault came when all was done",
        guards.overlap,
        lambda: Story(WELL).done("j").fault("kill", "worker-1", at=9, pid=A),
    ),
    (
        "a kill without a redelivery",
        guards.redelivery,
        lambda: Story(WELL).done("j").fault("kill", "worker-1", at=0.5, pid=B),
    ),
    ("no final answer was read", guards.drained, lambda: Story().submit("j").ran("j")),
    ("no submit succeeded", guards.operations, lambda: Story().submit("j", told="info").ran("j")),
    ("no body wrote anything", guards.operations, lambda: Story().submit("j").final("j")),
    ("the injector hung", guards.harness_sound, troubled),
]


def test_one_cut_for_two_roles_is_one_fault_and_two_kills_are_two() -> None:
    story = Story()
    for target in ("worker-redis", "api-redis"):
        story.fault("partition.drop", target, at=1, heal=6)
    story.fault("kill", "worker-1", at=2, pid=A).fault("kill", "worker-2", at=2.1, pid=B)
    assert story.run.fault_count == 3


@pytest.mark.parametrize(("name", "guard", "story"), HOLLOW, ids=[name for name, *_ in HOLLOW])
def test_a_run_that_proved_nothing_is_unknown(name: str, guard: Promise, story: Callable[[], Story]) -> None:
    assert guard.check(story().run).verdict == "unknown"


def test_every_guard_has_a_run_that_it_rejects() -> None:
    assert {guard for _, guard, _ in HOLLOW} == set(GUARDS)


def test_a_crash_that_was_survived_is_valid_as_a_whole_with_its_bound() -> None:
    story = (
        Story(WELL)
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("kill", "worker-1", at=2, pid=A, heal=20)
        .ran("j", 2, at=7, pid=B)
        .final("j", attempt=2)
    )
    judgement = judge(story.run)
    assert judgement.verdict == "valid", [check for check in judgement.checks if check.verdict != "valid"]
    assert (judgement.faults, judgement.jobs) == (1, 1)
    assert "95 %" in judgement.sentence


def test_a_loss_outweighs_a_run_that_proved_little() -> None:
    judgement = judge(Story(WELL).submit("j").final("j").run)
    assert judgement.verdict == "invalid"
    assert "1 of 1 accepted jobs were lost" in judgement.sentence
