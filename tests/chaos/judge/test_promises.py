"""Every promise is valid on sound histories and invalid on broken ones; one that cannot be judged stands alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from chaos.__main__ import app
from chaos.errors import UsageError
from chaos.judge import PROMISES, judge
from chaos.judge.guards import GUARDS
from chaos.judge.promise import Promise
from chaos.record.runs import Folder, load_judgement
from chaos.record.verdict import SEVERITY, Verdict, compose, loss_bound
from chaos.scenarios import SCENARIOS, UNLISTED
from chaos.scenarios.api import submits_go_on
from chaos.scenarios.ends import cancelled_in_hand, given_up
from tests.chaos.judge.broken import BROKEN, held, overstayed
from tests.chaos.judge.sound import SOUND, spent
from tests.stories import Story

OWN = {name: scenario.promises for name, scenario in (SCENARIOS | UNLISTED).items() if scenario.promises}
NEED_IDS = {"at-least-once", "no-phantom", "terminal", "idempotent-submit", "operations"}


CLAIMED = "2026-01-01T00:00:00Z"
EXERCISED: list[tuple[Promise, Callable[[], Story]]] = [
    (
        cancelled_in_hand,
        lambda: (
            Story()
            .submit("j")
            .cancel("j", at=1)
            .final("j", "CANCELLED", 1, started_at=CLAIMED)
            .submit("k")
            .cancel("k", at=1)
            .start("k", at=1.5)
            .final("k", "CANCELLED", 1, started_at=CLAIMED)
        ),
    ),
    (given_up, lambda: overstayed(next_at=9.0)),
    (submits_go_on, lambda: held(waited=0.1)),
]
IDLE: list[tuple[Promise, Callable[[], Story]]] = [
    (cancelled_in_hand, lambda: Story().submit("j").cancel("j", at=1).final("j", "CANCELLED", 0)),
    (given_up, lambda: Story().done("j")),
    (submits_go_on, lambda: Story().fault("key_held", "postgres", at=1, heal=8).submit("j", at=2)),
]


def nameless() -> Story:
    """A sound job, and a submit that was accepted with no id in the answer."""
    story = Story().done("j").submit("k")
    story.history[-1] = msgspec.structs.replace(story.history[-1], value={"status": "PENDING"})
    return story


def foretold_twice() -> Story:
    """A job that was to fail once, and did not: nothing but `calm` minds."""
    return Story().submit("j", "FLAKY", payload={"failures": 1}).ran("j").final("j")


def again(story: Story, folder: Path, scenario: str) -> tuple[int, str]:
    """What `chaos verdict` says of such a run of the scenario: exit code and text."""
    story.manifest = msgspec.structs.replace(story.manifest, scenario=scenario)
    story.write(folder)
    done = CliRunner().invoke(app, ["verdict", str(folder)], env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_history_is_valid_in_every_check(name: str) -> None:
    run = SOUND[name]().run
    assert [check for each in PROMISES if (check := each.check(run)).verdict != "valid"] == []


@pytest.mark.parametrize(("name", "promise", "story"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_a_broken_history_is_invalid_and_the_offender_is_named(
    name: str, promise: Promise, story: Callable[[], Story]
) -> None:
    check = promise.check(story().run)
    assert (check.name, check.verdict) == (promise.name, "invalid"), check
    assert check.examples
    assert check.details["count"] >= 1


@pytest.mark.parametrize(("promise", "story"), EXERCISED, ids=[promise.name for promise, _ in EXERCISED])
def test_a_promise_of_one_scenario_is_valid_where_it_was_exercised(
    promise: Promise, story: Callable[[], Story]
) -> None:
    assert promise.check(story().run).verdict == "valid"


@pytest.mark.parametrize(("promise", "story"), IDLE, ids=[promise.name for promise, _ in IDLE])
def test_and_unknown_where_nothing_put_it_to_the_test(promise: Promise, story: Callable[[], Story]) -> None:
    assert promise.check(story().run).verdict == "unknown"


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {promise for _, promise, _ in BROKEN} == {*PROMISES, *(each for own in OWN.values() for each in own)}


@pytest.mark.parametrize("own", [(), *OWN.values()], ids=["common", *OWN])
def test_no_two_promises_of_a_run_share_a_name_and_each_says_what_it_demands(own: tuple[Promise, ...]) -> None:
    whole = [*PROMISES, *own, *GUARDS]
    assert len({each.name for each in whole}) == len(whole)
    assert all(each.source and each.sentence.endswith(".") for each in whole)


@given(st.permutations(range(8)))
def test_the_verdict_does_not_depend_on_the_order_in_which_effects_were_written(order: list[int]) -> None:
    story = spent()
    story.effects = [story.effects[at] for at in order]
    assert all(each.check(story.run).verdict == "valid" for each in PROMISES)


class TestWhatCannotBeJudged:
    def test_it_is_unknown_with_its_traceback_and_the_others_judge(self) -> None:
        judgement = judge(nameless().run)
        unknown = [check for check in judgement.checks if check.verdict != "valid"]
        assert {check.name for check in unknown} == NEED_IDS
        assert len(judgement.checks) == len(PROMISES) + len(GUARDS)
        assert {check.summary for check in unknown} == {"could not be judged: KeyError: 'id'"}
        assert all('["id"]' in check.details["traceback"] for check in unknown)
        assert (judgement.verdict, judgement.jobs) == ("unknown", 0)

    def test_what_is_invalid_beside_it_makes_the_run_invalid(self) -> None:
        assert judge(nameless().died("worker-1").run).verdict == "invalid"

    def test_a_fault_that_is_no_fault_leaves_the_run_unknown(self) -> None:
        story = Story().done("j").fault("kill", "worker-1", at=1)
        story.history[-1] = msgspec.structs.replace(story.history[-1], value=None)
        judgement = judge(story.run)
        assert (judgement.verdict, judgement.faults) == ("unknown", 0)

    def test_the_command_says_so_and_exits_as_for_any_unknown_or_invalid_run(self, tmp_path: Path) -> None:
        code, text = again(nameless(), tmp_path / "unknown", "calm")
        assert (code, "could not be judged: KeyError: 'id'" in text) == (3, True)
        assert again(nameless().died("worker-1"), tmp_path / "invalid", "calm")[0] == 1

    def test_the_traceback_is_kept_in_the_verdict(self, tmp_path: Path) -> None:
        folder = Folder(tmp_path)
        folder.write(folder.verdict, judge(nameless().run))
        kept = {check.name: check for check in load_judgement(tmp_path).checks}
        assert "Traceback" in kept["terminal"].details["traceback"]


class TestPromisesOfOneScenario:
    def test_they_are_judged_beside_the_common_ones_and_again_from_the_record(self, tmp_path: Path) -> None:
        assert judge(foretold_twice().run).verdict == "valid"
        assert judge(foretold_twice().run, SCENARIOS["calm"].promises).verdict == "invalid"
        assert again(foretold_twice(), tmp_path / "other", "burst")[0] == 0
        code, text = again(foretold_twice(), tmp_path / "calm", "calm")
        assert (code, "exactly-once" in text) == (1, True)

    def test_a_run_of_no_known_scenario_is_not_judged_by_fewer(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no scenario is called 'calmer'"):
            again(foretold_twice(), tmp_path, "calmer")


@given(st.lists(st.sampled_from(SEVERITY)))
def test_invalid_outweighs_unknown_outweighs_valid(verdicts: list[Verdict]) -> None:
    found = compose(verdicts)
    if "invalid" in verdicts:
        assert found == "invalid"
    elif "unknown" in verdicts or not verdicts:
        assert found == "unknown"
    else:
        assert found == "valid"


@given(st.integers(1, 100_000))
def test_zero_losses_are_worth_about_three_over_the_number_of_faults(faults: int) -> None:
    assert (1 - loss_bound(faults)) ** faults == pytest.approx(0.05)
    assert loss_bound(faults) <= 3 / faults
    assert loss_bound(0) == 1
