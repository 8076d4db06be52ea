"""Crash points: named places where a process of the scheduler dies, freezes, or loses a reply, on demand.

SCHEDULER_CRASH_POINTS switches them on, read once at start: `worker.after-claim:kill`, or `…:stall@3` for the third
time the place is reached. A point is a fact, and arming it is to listen to that fact; while the variable is unset this
module is not even imported.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scheduler.errors import ConfigurationError, StoreUnavailable, nearest
from scheduler.facts import facts
from scheduler.facts.facts import CRASH_POINT, Fact, Told, listen, tell

Role = Literal["api", "worker"]
ACTIONS = ("kill", "stall", "lose")


@dataclass(frozen=True, slots=True)
class Point:
    """The place where `fact` is told, in processes of one role."""

    name: str
    fact: Fact

    @property
    def role(self) -> Role:
        """In which processes it can be armed."""
        return "api" if self.name.startswith("api.") else "worker"

    @property
    def may_lose(self) -> bool:
        """Whether a reply can be lost here: a command to a store has just run."""
        return bool(self.fact.reply)


POINTS: dict[str, Point] = {
    point.name: point
    for point in (
        Point("api.before-insert", facts.INSERTING),
        Point("api.after-commit", facts.INSERTED),
        Point("api.after-publish", facts.PUBLISHED),
        Point("worker.after-read", facts.DELIVERED),
        Point("worker.after-claim", facts.CLAIMED),
        Point("worker.handler-start", facts.HANDLER_STARTED),
        Point("worker.handler-end", facts.HANDLER_ENDED),
        Point("worker.after-settle", facts.SETTLED),
        Point("worker.after-schedule", facts.SCHEDULED),
        Point("worker.after-ack", facts.ACKNOWLEDGED),
        Point("promoter.before-move", facts.PROMOTING),
        Point("promoter.after-move", facts.PROMOTED),
        Point("rescuer.before-rescue", facts.RESCUING),
        Point("rescuer.after-rescue", facts.GIVEN_BACK),
        Point("rescuer.after-publish", facts.RESCUE_PUBLISHED),
        Point("reconciler.after-look", facts.OVERLOOKED),
        Point("reconciler.after-publish", facts.RECONCILED),
    )
}
HANDLER_POINTS = ("worker.after-claim", "worker.handler-start", "worker.handler-end", "worker.after-settle")


@dataclass(slots=True)
class Armed:
    """A point that will act at the `nth` time it is reached, and never again."""

    point: Point
    action: str
    nth: int = 1
    reached: int = 0

    @classmethod
    def parse(cls, text: str) -> Armed:
        """From `POINT:ACTION` or `POINT:ACTION@N`. Raises ConfigurationError with the nearest known word."""
        name, _, rest = text.partition(":")
        action, _, count = rest.partition("@")
        where = f"SCHEDULER_CRASH_POINTS={text!r}"
        if name not in POINTS:
            raise ConfigurationError(f"{where}: no such point; " + _hint(name, POINTS))
        if action not in ACTIONS:
            raise ConfigurationError(f"{where}: no such action; " + _hint(action, ACTIONS))
        if action == "lose" and not POINTS[name].may_lose:
            raise ConfigurationError(f"{where}: no reply of a store arrives there; kill or stall")
        if count and not (count.isdigit() and int(count)):
            raise ConfigurationError(f"{where}: {count!r} is no number from 1")
        return cls(POINTS[name], action, int(count or 1))

    def reach(self, told: Told | None = None) -> None:
        """Count, and act when it is the time. Raises StoreUnavailable where a reply is to be lost."""
        self.reached += 1
        if self.reached != self.nth:
            return
        tell(CRASH_POINT, point=self.point.name, action=self.action)
        if self.action == "lose":
            raise StoreUnavailable(self.point.fact.reply, f"the reply was lost at {self.point.name}, on purpose")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def arm(texts: Sequence[str], role: Role) -> list[Armed]:
    """Arm the points of this process's role. Raises ConfigurationError for a text that names none."""
    parsed = [Armed.parse(text) for text in texts]
    armed = [each for each in parsed if each.point.role == role]
    for each in armed:
        listen(each.point.fact, each.reach)
    return armed


def _hint(word: str, known: Iterable[str]) -> str:
    guess = nearest(word, known)
    return f"did you mean {guess!r}?" if guess else f"there are {', '.join(known)}"
