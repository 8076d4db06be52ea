"""Every check on the smallest history that keeps its promise, and on mutations that break it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.judge import checks, recovery, retries
from chaos.judge.checks import PROMISES
from chaos.record.history import Run
from chaos.record.verdict import SEVERITY, Check, Verdict, compose, loss_bound
from tests.chaos.stories import A, B, Story

Judge = Callable[[Run], Check]


def crashed() -> Story:
    """Worker A is killed in the middle of attempt 1; B does attempt 2 five seconds later."""
    return (
        Story()
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("kill", "worker-1", at=2, pid=A, heal=20)
        .ran("j", 2, at=7, pid=B)
        .final("j", attempt=2)
    )


def frozen() -> Story:
    """Worker A is stopped past its lease; B does the job, then A wakes and finishes its stale body."""
    return (
        Story()
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("pause", "worker-1", at=2, pid=A, heal=12)
        .ran("j", 2, at=7, pid=B)
        .end("j", at=12.5, pid=A)
        .final("j", attempt=2, result={"attempt": 2, "pid": B})
    )


def retried() -> Story:
    """The first attempt fails at 1.1 s, the second starts 2.05 s later."""
    return Story().submit("j").failed("j", at=1).ran("j", 2, at=3.15).final("j", attempt=2)


def spent() -> Story:
    """All four attempts fail, on schedule."""
    story = Story().submit("j")
    for number, at in ((1, 1.0), (2, 3.15), (3, 7.3), (4, 15.4)):
        story.failed("j", number, at=at)
    return story.final("j", "FAILED", 4).letters("j")


def postgres_cut() -> Story:
    """A's outcome could not be written because PostgreSQL was cut off; the job runs again."""
    return (
        Story()
        .submit("j")
        .ran("j", at=1, pid=A)
        .fault("refuse", "worker-postgres", at=1.05, heal=4)
        .ran("j", 2, at=12, pid=B)
        .final("j", attempt=2)
    )


VALID: dict[str, Callable[[], Story]] = {
    "undisturbed": lambda: Story().done("j").done("k"),
    "crashed": crashed,
    "frozen": frozen,
    "retried": retried,
    "spent": spent,
    "postgres cut": postgres_cut,
    "released by SIGTERM, the same attempt again": lambda: (
        Story()
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("term", "worker-1", at=2, pid=A, heal=4)
        .ran("j", 1, at=2.2, pid=B)
        .final("j")
    ),
    "a poison job spends its attempts": lambda: (
        Story()
        .submit("j", "CRASH")
        .start("j", 1, at=1, pid=A, job_type="CRASH")
        .start("j", 2, at=6, pid=B, job_type="CRASH")
        .start("j", 3, at=11, pid=103, job_type="CRASH")
        .start("j", 4, at=16, pid=104, job_type="CRASH")
        .final("j", "FAILED", 4, type="CRASH")
        .letters("j")
    ),
    "an unanswered submit that was accepted": lambda: Story().submit("j", kind="info").ran("j").final("j"),
    "a submit repeated with its key": lambda: (
        Story().submit("j", key="k", kind="info").submit("j", key="k").done("j2").ran("j").final("j")
    ),
    "killed between the end of a last body and its settling": lambda: (
        spent()
        .end("x", 4, at=40, pid=A)
        .submit("x")
        .start("x", 4, at=39, pid=A)
        .letters("j", "x")
        .fault("kill", "worker-1", at=40.2, pid=A)
        .final("x", "FAILED", 4)
    ),
    "a restart that queued behind a backlog": lambda: (
        crashed_late().sample(at=8.5, stream=500, pending=100).sample(at=19, stream=300, pending=100)
    ),
    "a dead letter written in the millisecond after its job was FAILED": lambda: mutate(
        spent().left(dlq_ms=[1_000]), finished_at="1970-01-01T00:00:01.0009Z"
    ),
    "a job whose worker got SIGTERM and then SIGKILL has lost an attempt": lambda: (
        Story()
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("term", "worker-1", at=2, pid=A)
        .fault("kill", "worker-1", at=2.5, pid=A, heal=4)
        .ran("j", 2, at=6, pid=B)
        .final("j", attempt=2)
    ),
    "cancelled before it ran": lambda: Story().submit("j").final("j", "CANCELLED", 0),
}


def crashed_late() -> Story:
    return (
        Story()
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("kill", "worker-1", at=2, pid=A)
        .ran("j", 2, at=20, pid=B)
        .final("j", attempt=2)
    )


INVALID: list[tuple[str, Judge, Callable[[], Story]]] = [
    ("COMPLETED, but the body never ran", checks.at_least_once, lambda: Story().submit("j").final("j")),
    (
        "settled before its body ran, then killed",
        checks.at_least_once,
        lambda: Story().submit("j").start("j", at=1).fault("kill", "worker-1", at=2, pid=A).final("j"),
    ),
    ("accepted and forgotten", checks.at_least_once, lambda: Story().submit("j")),
    ("FAILED without one start", checks.at_least_once, lambda: Story().submit("j").final("j", "FAILED", 4)),
    ("a body of a job that nobody submitted", checks.no_phantom, lambda: Story().done("j").ran("ghost")),
    ("a row that nobody submitted", checks.no_phantom, lambda: Story().done("j").final("ghost")),
    (
        "two jobs out of one unanswered submit",
        checks.no_phantom,
        lambda: Story().submit("j", kind="info").ran("j").ran("k"),
    ),
    (
        "an unknown job of another type than the unanswered submit",
        checks.no_phantom,
        lambda: Story().submit("j", "SLEEP", kind="info").ran("j"),
    ),
    ("a refused submit that ran", checks.no_phantom, lambda: Story().submit("j", kind="fail").ran("j")),
    ("the stale attempt has the last word", checks.fencing, lambda: mutate(frozen(), attempt=1)),
    (
        "the stale worker's result under the new attempt",
        checks.fencing,
        lambda: mutate(frozen(), result={"attempt": 1, "pid": A}),
    ),
    (
        "COMPLETED, later FAILED",
        checks.fencing,
        lambda: spent().observe(("j", "COMPLETED", 3)),
    ),
    (
        "COMPLETED without its end",
        checks.status_effect,
        lambda: Story().submit("j").start("j", at=1).final("j"),
    ),
    ("COMPLETED as an attempt that only failed", checks.status_effect, lambda: mutate(retried(), attempt=1)),
    (
        "FAILED although the body ended",
        checks.status_effect,
        lambda: Story().done("k").submit("j").ran("j").final("j", "FAILED", 4),
    ),
    (
        "PENDING although the body ended",
        checks.status_effect,
        lambda: Story().submit("j").ran("j").final("j", "PENDING"),
    ),
    (
        "FAILED though no body failed",
        checks.status_effect,
        lambda: Story().submit("j").start("j", at=1).final("j", "FAILED"),
    ),
    ("FAILED though no body started", checks.status_effect, lambda: Story().submit("j").final("j", "FAILED")),
    (
        "FAILED with an end long before the kill",
        checks.status_effect,
        lambda: Story().submit("j").ran("j").fault("kill", "worker-1", at=9, pid=A).final("j", "FAILED", 4),
    ),
    (
        "PROCESSING at the end",
        checks.terminal,
        lambda: Story().submit("j").start("j", at=1).final("j", "PROCESSING"),
    ),
    ("no answer about an accepted job", checks.terminal, lambda: Story().submit("j").ran("j")),
    (
        "run twice with nothing to blame",
        retries.repetition,
        lambda: Story().done("j").ran("j", 2, at=8, pid=B),
    ),
    (
        "run twice because of a Redis cut",
        retries.repetition,
        lambda: Story().done("j").fault("partition.hold", "worker-redis", at=1, heal=6).ran("j", 2, at=8, pid=B),
    ),
    (
        "run twice though another worker was killed",
        retries.repetition,
        lambda: Story().done("j").fault("kill", "worker-2", at=1, pid=B).ran("j", 2, at=8, pid=103),
    ),
    (
        "the same attempt twice at once",
        retries.repetition,
        lambda: Story().submit("j").start("j", at=1, pid=A).start("j", at=1.05, pid=B).final("j"),
    ),
    ("the second attempt 1.9 s after the error", retries.retry_schedule, lambda: early(1.9, 1)),
    ("the third attempt after 2 s instead of 4 s", retries.retry_schedule, lambda: early(2.0, 2)),
    ("the fourth attempt after 4 s instead of 8 s", retries.retry_schedule, lambda: early(4.0, 3)),
    ("a fifth attempt", retries.retry_bound, lambda: spent().failed("j", 5, at=40)),
    (
        "a first attempt that fails five times",
        retries.retry_bound,
        lambda: uncounted(),  # noqa: PLW0108
    ),
    (
        "COMPLETED, but the webhook was never called",
        checks.status_effect,
        lambda: Story().done("j").final("k", type="WEBHOOK").submit("k", "WEBHOOK").ran("k").call("j"),
    ),
    ("a worker that gave up", checks.survival, lambda: Story().done("j").died("worker-1")),
    (
        "a bystander in the DLQ for the crashes of a poison job",
        checks.bystanders,
        lambda: (
            Story()
            .submit("p", "CRASH")
            .start("p", at=1, job_type="CRASH")
            .submit("j")
            .start("j", at=1)
            .final("p", "FAILED", 4, type="CRASH")
            .final("j", "FAILED", 4)
        ),
    ),
    (
        "a job given back at SIGTERM with an attempt less",
        retries.release,
        lambda: (
            Story()
            .submit("j")
            .start("j", at=1, pid=A)
            .fault("term", "worker-1", at=2, pid=A, heal=4)
            .ran("j", 2, at=2.2, pid=B)
            .final("j", attempt=2)
        ),
    ),
    (
        "a fifth crash of a poison job whose attempts were never counted",
        retries.retry_bound,
        lambda: crashes_uncounted(),  # noqa: PLW0108
    ),
    (
        "a dead letter written before its job was FAILED",
        checks.dlq_exact,
        lambda: mutate(spent().left(dlq_ms=[999]), finished_at="1970-01-01T00:00:01Z"),
    ),
    ("FAILED, but no dead letter", checks.dlq_exact, lambda: spent().letters()),
    ("a dead letter twice", checks.dlq_exact, lambda: spent().letters("j", "j")),
    ("a dead letter of a job that is COMPLETED", checks.dlq_exact, lambda: Story().done("j").letters("j")),
    (
        "a dead letter after one of four attempts",
        checks.dlq_exact,
        lambda: Story().submit("j").failed("j", at=1).final("j", "FAILED", 1).letters("j"),
    ),
    ("an entry left in the stream", checks.redis_empty, lambda: Story().done("j").left(stream=1)),
    ("an entry left pending", checks.redis_empty, lambda: Story().done("j").left(pending=3)),
    ("an id left in the retry index", checks.redis_empty, lambda: Story().done("j").left(retry=1)),
    (
        "one key, two jobs",
        checks.one_submit_one_job,
        lambda: Story().submit("j", key="k").submit("l", key="k"),
    ),
    (
        "two keys, one job",
        checks.one_submit_one_job,
        lambda: Story().submit("j", key="k").submit("j", key="l"),
    ),
    ("an orphan restarted after 18 s", recovery.recovery_time, crashed_late),
    (
        "an orphan that never restarted",
        recovery.recovery_time,
        lambda: Story().submit("j").start("j", at=1).fault("kill", "worker-1", at=2, pid=A).final("j", "PROCESSING"),
    ),
    (
        "a frozen worker's job restarted only after it woke",
        recovery.recovery_time,
        lambda: (
            Story()
            .submit("j")
            .start("j", at=1)
            .fault("pause", "worker-1", at=2, pid=A, heal=20)
            .end("j", at=20.5)
            .ran("j", 2, at=21, pid=B)
            .final("j", attempt=2)
        ),
    ),
    (
        "late though the backlog was gone",
        recovery.recovery_time,
        lambda: crashed_late().sample(at=8.5, stream=500, pending=100).sample(at=15, stream=100, pending=100),
    ),
]


def late(*, other_at: float | None = None, fault: str = "kill", target: str = "worker-2") -> Story:
    """An orphan of a death at 20 s that restarts 18 s later, and perhaps one more fault."""
    story = Story().submit("j").start("j", at=19).fault("kill", "worker-1", at=20, pid=A)
    if other_at is not None:
        story.fault(fault, target, at=other_at, pid=B if fault == "kill" else None, heal=other_at + 2)
    return story.ran("j", 2, at=38, pid=103).final("j", attempt=2)


def twice_dead() -> Story:
    """The second death in a row, 40 s after the first; the third attempt waits its turn."""
    story = Story().submit("j").start("j", at=1).fault("kill", "worker-1", at=2, pid=A)
    story.start("j", 2, at=7, pid=B).fault("kill", "worker-2", at=40, pid=B)
    return story.ran("j", 3, at=60, pid=103).final("j", attempt=3)


@pytest.mark.parametrize(
    ("excused", "story"),
    [
        (False, late),
        (False, lambda: late(other_at=2)),
        (True, lambda: late(other_at=23)),
        (False, lambda: late(other_at=2, fault="partition.drop", target="worker-postgres")),
        (True, lambda: late(other_at=22, fault="partition.drop", target="worker-postgres")),
        (False, lambda: late(other_at=22, fault="partition.drop", target="worker-redis")),
        (True, twice_dead),
    ],
)
def test_a_late_restart_is_excused_only_where_the_promise_does_not_bind(
    excused: bool, story: Callable[[], Story]
) -> None:
    assert recovery.recovery_time(story().run).verdict == ("valid" if excused else "invalid")


def uncounted() -> Story:
    story = Story().submit("j")
    for number in range(5):
        story.failed("j", 1, at=1 + 3 * number)
    return story.final("j", "PENDING", 0)


def crashes_uncounted() -> Story:
    story = Story().submit("j", "CRASH")
    for number in range(5):
        story.start("j", 1, at=1 + 6 * number, pid=A + number, job_type="CRASH")
    return story.final("j", "PENDING", 0, type="CRASH")


def early(waited: float, failures: int) -> Story:
    """`failures` attempts fail on schedule but the last one is retried `waited` seconds after its error."""
    story, at = Story().submit("j"), 1.0
    for number in range(1, failures + 1):
        story.failed("j", number, at=at)
        at += 0.1 + (2.0 * 2 ** (number - 1) if number < failures else waited)
    return story.ran("j", failures + 1, at=at).final("j", attempt=failures + 1)


def mutate(story: Story, **changes: object) -> Story:
    import msgspec

    story.finals = [msgspec.structs.replace(story.finals[0], **changes), *story.finals[1:]]
    return story


def test_blocking_bodies_and_refusals_count_as_faults_that_a_run_survived() -> None:
    story = Story().done("k").submit("j", "BLOCK").start("j", at=1, job_type="BLOCK").end("j", at=8, job_type="BLOCK")
    for number, at in enumerate((2.0, 2.5, 3.2, 9.0)):
        story.refused(f"r{number}", at=at)
    windows = [(each.fault, each.target) for each in story.run.windows]
    assert windows == [("block", "worker"), ("overload", "api"), ("overload", "api")]
    assert story.run.fault_count == 3


@pytest.mark.parametrize("name", VALID)
def test_a_sound_history_is_valid_in_every_check(name: str) -> None:
    run = VALID[name]().run
    wrong = [check for promise in PROMISES if (check := promise(run)).verdict != "valid"]
    assert wrong == []


@pytest.mark.parametrize(("name", "promise", "story"), INVALID, ids=[name for name, *_ in INVALID])
def test_a_broken_history_is_invalid_and_the_offender_is_named(
    name: str, promise: Judge, story: Callable[[], Story]
) -> None:
    check = promise(story().run)
    assert check.verdict == "invalid", check
    assert check.examples
    assert check.details["count"] >= 1


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {promise for _, promise, _ in INVALID} == set(PROMISES)


def test_lost_jobs_are_named_by_their_ids() -> None:
    check = checks.at_least_once(Story().done("well").submit("gone").final("gone").run)
    assert check.details["lost"] == ["gone"]


def test_a_retry_exactly_on_time_is_not_early_and_a_late_one_is_only_counted() -> None:
    assert retries.retry_schedule(early(2.0, 1).run).verdict == "valid"
    late = retries.retry_schedule(early(9.0, 1).run)
    assert (late.verdict, late.details["late"]) == ("valid", 1)


def test_duplicates_are_attributed_to_their_causes() -> None:
    assert retries.repetition(crashed().run).details["causes"] == {"crash": 1}
    assert retries.repetition(frozen().run).details["causes"] == {"lease lost": 1}
    assert retries.repetition(retried().run).details["causes"] == {"retry": 1}
    assert retries.repetition(postgres_cut().run).details["causes"] == {"postgres": 1}
    assert retries.repetition(frozen().run).details["duplicates"] == 1


def test_a_stale_body_is_counted_and_no_violation() -> None:
    assert checks.fencing(frozen().run).details["stale_bodies"] == 1


def test_recovery_is_measured_from_the_death_to_the_restart() -> None:
    assert recovery.recovery_time(crashed().run).details["waits_seconds"] == [4.99]


def test_an_unreadable_redis_is_unknown_not_empty() -> None:
    blind = Story().done("j").left(stream=None, dlq=None).run
    assert checks.redis_empty(blind).verdict == "unknown"
    assert checks.dlq_exact(blind).verdict == "unknown"


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


@given(st.permutations(range(8)))
def test_the_verdict_does_not_depend_on_the_order_in_which_effects_were_written(order: list[int]) -> None:
    story = spent()
    story.effects = [story.effects[at] for at in order]
    assert all(promise(story.run).verdict == "valid" for promise in PROMISES)
