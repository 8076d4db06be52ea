"""What checks count and name beside their verdict."""

from __future__ import annotations

from chaos.judge import delivery, ending, fencing, letters, retries
from tests.chaos.judge.broken import early
from tests.chaos.judge.sound import crashed, frozen, postgres_cut, retried
from tests.stories import Story


def test_lost_jobs_are_named_by_their_ids() -> None:
    check = delivery.at_least_once.check(Story().done("well").submit("gone").final("gone").run)
    assert check.details["lost"] == ["gone"]


def test_a_retry_exactly_on_time_is_not_early_and_a_late_one_is_only_counted() -> None:
    assert retries.retry_schedule.check(early(2.0, 1).run).verdict == "valid"
    late = retries.retry_schedule.check(early(9.0, 1).run)
    assert (late.verdict, late.details["late"]) == ("valid", 1)


def test_duplicates_are_attributed_to_their_causes() -> None:
    told = {"crash": crashed, "lease lost": frozen, "retry": retried, "postgres": postgres_cut}
    for cause, story in told.items():
        assert delivery.repetition.check(story().run).details["causes"] == {cause: 1}
    assert delivery.repetition.check(frozen().run).details["duplicates"] == 1


def test_a_stale_body_is_counted_and_no_violation() -> None:
    assert fencing.fencing.check(frozen().run).details["stale_bodies"] == 1


def test_an_unreadable_redis_is_unknown_not_empty() -> None:
    blind = Story().done("j").left(stream=None, dlq=None).run
    assert ending.redis_empty.check(blind).verdict == "unknown"
    assert letters.dlq_exact.check(blind).verdict == "unknown"


def test_blocking_bodies_and_refusals_count_as_faults_that_a_run_survived() -> None:
    story = Story().done("k").submit("j", "BLOCK").start("j", at=1, job_type="BLOCK").end("j", at=8, job_type="BLOCK")
    for number, at in enumerate((2.0, 2.5, 3.2, 9.0)):
        story.refused(f"r{number}", at=at)
    windows = [(each.fault, each.target) for each in story.run.windows]
    assert windows == [("block", "worker"), ("overload", "api"), ("overload", "api")]
    assert story.run.fault_count == 3
