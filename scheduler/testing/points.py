"""Crash points: named places where a process of the scheduler dies, freezes, or loses a reply, on demand.

SCHEDULER_CRASH_POINTS switches them on, read once at start: `worker.after-claim:kill`, or `…:stall@3` for the third
time the place is reached. A point lies between two calls, so arming it wraps a call; while the variable is unset this
module is not even imported, and the scheduler holds no trace of it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from scheduler.errors import ConfigurationError, StoreUnavailable, nearest
from scheduler.facts.telemetry import emit
from scheduler.keepers.reconciler import Reconciler
from scheduler.keepers.rescuer import Rescuer
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.executor import Executor

Role = Literal["api", "worker"]
Call = Callable[..., Awaitable[Any]]
ACTIONS = ("kill", "stall", "lose")


def _has_result(result: Any, arguments: tuple[Any, ...]) -> bool:
    return bool(result)


def _always(result: Any, arguments: tuple[Any, ...]) -> bool:
    return True


def _was_asked(result: Any, arguments: tuple[Any, ...]) -> bool:
    """For calls that answer nothing: whether there was anything to do."""
    return bool(arguments and arguments[-1])


@dataclass(frozen=True, slots=True)
class Point:
    """`when` the call of `methods` is about to be made, or was made and `happened` says that it did something."""

    name: str
    owner: type
    methods: tuple[str, ...]
    when: Literal["before", "after"] = "after"
    happened: Callable[[Any, tuple[Any, ...]], bool] = _has_result

    @property
    def role(self) -> Role:
        return "api" if self.name.startswith("api.") else "worker"

    @property
    def may_lose(self) -> bool:
        """Whether a reply can be lost here: a command to a store has just run."""
        return self.when == "after" and self.owner in (Store, Stream)


POINTS: dict[str, Point] = {
    point.name: point
    for point in (
        Point("api.before-insert", Store, ("insert", "insert_whole"), "before"),
        Point("api.after-commit", Store, ("insert", "insert_whole"), happened=_always),
        Point("api.after-publish", Stream, ("publish",), happened=_was_asked),
        Point("worker.after-read", Stream, ("read",)),
        Point("worker.after-claim", Store, ("claim",)),
        Point("worker.handler-start", Executor, ("_call",), "before"),
        Point("worker.handler-end", Executor, ("_call",), happened=_always),
        Point("worker.after-settle", Store, ("complete", "settle"), happened=_always),
        Point("worker.after-schedule", Stream, ("schedule",)),
        Point("worker.after-ack", Stream, ("ack",), happened=_was_asked),
        Point("promoter.before-move", Stream, ("promote",), "before"),
        Point("promoter.after-move", Stream, ("promote",)),
        Point("rescuer.before-rescue", Store, ("rescue",), "before"),
        Point("rescuer.after-rescue", Store, ("rescue",)),
        Point("rescuer.after-publish", Rescuer, ("_rescue",), happened=_always),
        Point("reconciler.after-look", Store, ("overlooked",), happened=lambda found, _: any(found)),
        Point("reconciler.after-publish", Reconciler, ("_reconcile_jobs",)),
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

    def reach(self) -> None:
        """Count, and act when it is the time. Raises StoreUnavailable where a reply is to be lost."""
        self.reached += 1
        if self.reached != self.nth:
            return
        emit("crash_point", logging.WARNING, point=self.point.name, action=self.action)
        if self.action == "lose":
            store = "PostgreSQL" if self.point.owner is Store else "Redis"
            raise StoreUnavailable(store, f"the reply was lost at {self.point.name}, on purpose")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def arm(texts: Sequence[str], role: Role) -> list[Armed]:
    """Arm the points of this process's role. Raises ConfigurationError for a text that names none."""
    parsed = [Armed.parse(text) for text in texts]
    armed = [each for each in parsed if each.point.role == role]
    for each in armed:
        for method in each.point.methods:
            setattr(each.point.owner, method, _wrapped(getattr(each.point.owner, method), each))
    return armed


def _wrapped(call: Call, armed: Armed) -> Call:
    point = armed.point

    @wraps(call)
    async def wrapper(self: Any, *arguments: Any, **options: Any) -> Any:
        if point.when == "before":
            armed.reach()
            return await call(self, *arguments, **options)
        try:
            result = await call(self, *arguments, **options)
        except Exception:
            if point.owner is Executor:  # a handler that raised has ended too
                armed.reach()
            raise
        if point.happened(result, arguments):
            armed.reach()
        return result

    return wrapper


def _hint(word: str, known: Iterable[str]) -> str:
    guess = nearest(word, known)
    return f"did you mean {guess!r}?" if guess else f"there are {', '.join(known)}"
