"""Histories in which every promise is kept: nothing happens, or what happens is survived as it should be."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.stories import A, B, Story


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


SOUND: dict[str, Callable[[], Story]] = {
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
    "an unanswered submit that was accepted": lambda: Story().submit("j", told="info").ran("j").final("j"),
    "a submit repeated with its key": lambda: (
        Story().submit("j", key="k", told="info").submit("j", key="k").done("j2").ran("j").final("j")
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
    """As crashed, but the second attempt starts 18 s after the death."""
    return (
        Story()
        .submit("j")
        .start("j", at=1, pid=A)
        .fault("kill", "worker-1", at=2, pid=A)
        .ran("j", 2, at=20, pid=B)
        .final("j", attempt=2)
    )


def mutate(story: Story, **changes: object) -> Story:
    """The story with another final answer about its first job."""
    story.finals = [msgspec.structs.replace(story.finals[0], **changes), *story.finals[1:]]
    return story
