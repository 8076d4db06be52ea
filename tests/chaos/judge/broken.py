"""Histories that break one promise each, told by what is wrong in them."""

from __future__ import annotations

from collections.abc import Callable

from chaos.judge import delivery, ending, fencing, letters, recovery, retries, status, submits
from chaos.judge.promise import Promise
from chaos.scenarios.api import submits_go_on
from chaos.scenarios.ends import cancelled_in_hand, given_up
from chaos.scenarios.load import even_share, exactly_once
from tests.chaos.judge.sound import crashed_late, frozen, mutate, retried, spent
from tests.stories import A, B, Story


def uncounted() -> Story:
    """Five failures, all of attempt 1."""
    story = Story().submit("j")
    for number in range(5):
        story.failed("j", 1, at=1 + 3 * number)
    return story.final("j", "PENDING", 0)


def crashes_uncounted() -> Story:
    """Five crashes, all of attempt 1."""
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


def overstayed(next_at: float) -> Story:
    """A body that goes on past its time-out, and the next attempt, by another worker."""
    story = Story().submit("j", "OVERTIME").start("j", at=1, job_type="OVERTIME").error("j", at=1.3)
    for pid in (B, 103):
        story.ran("j", 2, at=next_at, pid=pid)
    return story.final("j", attempt=2)


def held(waited: float) -> Story:
    """A key is held from 1 s to 8 s; its own job comes at 2 s, others at 3 s, answered after so many seconds."""
    story = Story().fault("key_held", "postgres", at=1, heal=8).submit("h", key="held-0", at=2, until=8.1)
    for job in "jklmnopq":
        story.submit(job, at=3, until=3 + waited)
    return story


BROKEN: list[tuple[str, Promise, Callable[[], Story]]] = [
    ("COMPLETED, but the body never ran", delivery.at_least_once, lambda: Story().submit("j").final("j")),
    (
        "settled before its body ran, then killed",
        delivery.at_least_once,
        lambda: Story().submit("j").start("j", at=1).fault("kill", "worker-1", at=2, pid=A).final("j"),
    ),
    ("accepted and forgotten", delivery.at_least_once, lambda: Story().submit("j")),
    ("FAILED without one start", delivery.at_least_once, lambda: Story().submit("j").final("j", "FAILED", 4)),
    ("a body of a job that nobody submitted", submits.no_phantom, lambda: Story().done("j").ran("ghost")),
    ("a row that nobody submitted", submits.no_phantom, lambda: Story().done("j").final("ghost")),
    (
        "two jobs out of one unanswered submit",
        submits.no_phantom,
        lambda: Story().submit("j", told="info").ran("j").ran("k"),
    ),
    (
        "an unknown job of another type than the unanswered submit",
        submits.no_phantom,
        lambda: Story().submit("j", "SLEEP", told="info").ran("j"),
    ),
    ("a refused submit that ran", submits.no_phantom, lambda: Story().submit("j", told="fail").ran("j")),
    ("the stale attempt has the last word", fencing.fencing, lambda: mutate(frozen(), attempt=1)),
    (
        "the stale worker's result under the new attempt",
        fencing.fencing,
        lambda: mutate(frozen(), result={"attempt": 1, "pid": A}),
    ),
    (
        "COMPLETED, later FAILED",
        fencing.fencing,
        lambda: spent().observe(("j", "COMPLETED", 3)),
    ),
    (
        "COMPLETED without its end",
        status.status_effect,
        lambda: Story().submit("j").start("j", at=1).final("j"),
    ),
    ("COMPLETED as an attempt that only failed", status.status_effect, lambda: mutate(retried(), attempt=1)),
    (
        "FAILED although the body ended",
        status.status_effect,
        lambda: Story().done("k").submit("j").ran("j").final("j", "FAILED", 4),
    ),
    (
        "PENDING although the body ended",
        status.status_effect,
        lambda: Story().submit("j").ran("j").final("j", "PENDING"),
    ),
    (
        "FAILED though no body failed",
        status.status_effect,
        lambda: Story().submit("j").start("j", at=1).final("j", "FAILED"),
    ),
    ("FAILED though no body started", status.status_effect, lambda: Story().submit("j").final("j", "FAILED")),
    (
        "FAILED with an end long before the kill",
        status.status_effect,
        lambda: Story().submit("j").ran("j").fault("kill", "worker-1", at=9, pid=A).final("j", "FAILED", 4),
    ),
    (
        "PROCESSING at the end",
        ending.terminal,
        lambda: Story().submit("j").start("j", at=1).final("j", "PROCESSING"),
    ),
    ("no answer about an accepted job", ending.terminal, lambda: Story().submit("j").ran("j")),
    (
        "run twice with nothing to blame",
        delivery.repetition,
        lambda: Story().done("j").ran("j", 2, at=8, pid=B),
    ),
    (
        "run twice because of a Redis cut",
        delivery.repetition,
        lambda: Story().done("j").fault("partition.hold", "worker-redis", at=1, heal=6).ran("j", 2, at=8, pid=B),
    ),
    (
        "run twice though another worker was killed",
        delivery.repetition,
        lambda: Story().done("j").fault("kill", "worker-2", at=1, pid=B).ran("j", 2, at=8, pid=103),
    ),
    (
        "the same attempt twice at once",
        delivery.repetition,
        lambda: Story().submit("j").start("j", at=1, pid=A).start("j", at=1.05, pid=B).final("j"),
    ),
    ("the second attempt 1.9 s after the error", retries.retry_schedule, lambda: early(1.9, 1)),
    ("the third attempt after 2 s instead of 4 s", retries.retry_schedule, lambda: early(2.0, 2)),
    ("the fourth attempt after 4 s instead of 8 s", retries.retry_schedule, lambda: early(4.0, 3)),
    ("a fifth attempt", retries.retry_bound, lambda: spent().failed("j", 5, at=40)),
    (
        "a first attempt that fails five times",
        retries.retry_bound,
        uncounted,
    ),
    (
        "COMPLETED, but the webhook was never called",
        status.status_effect,
        lambda: Story().done("j").final("k", type="WEBHOOK").submit("k", "WEBHOOK").ran("k").call("j"),
    ),
    ("a worker that gave up", ending.survival, lambda: Story().done("j").died("worker-1")),
    (
        "a bystander in the DLQ for the crashes of a poison job",
        letters.bystanders,
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
        crashes_uncounted,
    ),
    (
        "a dead letter written before its job was FAILED",
        letters.dlq_exact,
        lambda: mutate(spent().left(dlq_ms=[999]), finished_at="1970-01-01T00:00:01Z"),
    ),
    ("FAILED, but no dead letter", letters.dlq_exact, lambda: spent().letters()),
    ("a dead letter twice", letters.dlq_exact, lambda: spent().letters("j", "j")),
    ("a dead letter of a job that is COMPLETED", letters.dlq_exact, lambda: Story().done("j").letters("j")),
    (
        "a dead letter after one of four attempts",
        letters.dlq_exact,
        lambda: Story().submit("j").failed("j", at=1).final("j", "FAILED", 1).letters("j"),
    ),
    ("an entry left in the stream", ending.redis_empty, lambda: Story().done("j").left(stream=1)),
    ("an entry left pending", ending.redis_empty, lambda: Story().done("j").left(pending=3)),
    ("an id left in the retry index", ending.redis_empty, lambda: Story().done("j").left(retry=1)),
    (
        "one key, two jobs",
        submits.idempotent_submit,
        lambda: Story().submit("j", key="k").submit("l", key="k"),
    ),
    (
        "two keys, one job",
        submits.idempotent_submit,
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
    (
        "a body twice where nothing is broken",
        exactly_once,
        lambda: Story().done("j").ran("j", 2, at=8, pid=B),
    ),
    (
        "a body that starts a lease after its job was cancelled",
        cancelled_in_hand,
        lambda: Story().submit("j").cancel("j", at=1).start("j", at=6.1).final("j", "CANCELLED"),
    ),
    (
        "cancelled, and COMPLETED in the end",
        cancelled_in_hand,
        lambda: Story().submit("j").cancel("j", at=1).ran("j", at=1).final("j"),
    ),
    (
        "cancelled by nobody",
        cancelled_in_hand,
        lambda: Story().submit("j").final("j", "CANCELLED", 0),
    ),
    (
        "a time-out after which the next attempt waits for the body",
        given_up,
        lambda: overstayed(next_at=40.0),
    ),
    (
        "a time-out after which nothing comes",
        given_up,
        lambda: Story().submit("j", "OVERTIME").start("j", at=1, job_type="OVERTIME").error("j", at=1.3),
    ),
    (
        "a key that is held, and nobody else's submit is answered",
        submits_go_on,
        lambda: held(waited=6.0),
    ),
    (
        "a crowd of four that one of two idle workers ran",
        even_share,
        lambda: Story().done("i").submit("j").ran("j").submit("k").ran("k").submit("l").ran("l"),
    ),
    (
        "a job that was to fail four times and ran three",
        exactly_once,
        lambda: Story().submit("j", "FAIL").failed("j", 1, at=1).failed("j", 2, at=4).failed("j", 3, at=9),
    ),
]
