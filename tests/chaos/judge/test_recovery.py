"""How long orphans waited, and what excuses a late restart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.judge.recovery import recovery_time
from tests.chaos.judge.sound import crashed
from tests.stories import A, B, Story


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
    assert recovery_time.check(story().run).verdict == ("valid" if excused else "invalid")


def test_recovery_is_measured_from_the_death_to_the_restart() -> None:
    assert recovery_time.check(crashed().run).details["waits_seconds"] == [4.99]
