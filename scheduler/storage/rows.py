"""What PostgreSQL answers: one frozen value a row, its fields named and ordered as the statement names its columns.

A job as the outside sees it is in `jobs.view`, a job in hand in `jobs.job`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct

from scheduler.jobs.job import Outcome
from scheduler.jobs.view import JobSummary

T = TypeVar("T", bound=Struct)


class Accepted(Struct, frozen=True, gc=False):
    """A job that exists already, found by its id or idempotency key."""

    id: bytes
    key: str | None
    fingerprint: bytes | None
    status: str


class Due(Struct, frozen=True, gc=False):
    """A job that Redis is to hold: from `due_ms` (epoch milliseconds) on, or now when that is None."""

    id: bytes
    due_ms: float | None


class Misfit(Struct, frozen=True, gc=False):
    """A due job of a type that a worker lacks: whether a live worker lists it, or nobody has for too long."""

    id: bytes
    type: str
    is_listed: bool
    is_hopeless: bool


class KnownType(Struct, frozen=True, gc=False):
    """A type that a worker once registered; partial when some of the live workers list it now, but not all."""

    name: str
    is_partial: bool


class Letter(Struct, frozen=True, gc=False):
    """A dead letter."""

    id: bytes
    type: str
    error: str


class Beat(Struct, frozen=True, gc=False):
    """Whether a lease had not run out when it was renewed, and the jobs cancelled since the last heartbeat."""

    unbroken: bool
    cancelled: list[bytes]


class Lease(Struct, frozen=True, gc=False):
    """When a worker's lease runs out (epoch seconds), and in how many seconds that is: 0 or less, it has."""

    id: bytes
    expires_at: float
    left_seconds: float


class LiveWorker(Struct, frozen=True, gc=False):
    """A worker whose lease holds, as it reports itself; `id` is uuid text."""

    id: str
    name: str
    age_seconds: float
    types: list[str]
    counters: dict[str, int]


class Looked(NamedTuple):
    """Jobs, newest first; `stopped_at`: the id where the look for more broke off, None when it came to the end."""

    jobs: list[JobSummary]
    stopped_at: bytes | None


class Live(Struct, frozen=True, gc=False):
    """How many unfinished jobs are due, wait for their time, and run; the age of the oldest due one, else 0."""

    due: int
    waiting: int
    processing: int
    oldest_due_seconds: float


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a batch of outcomes: done now or by an earlier try, or too late.

    `due_ms`: when those done now that run again may do so, by id, in epoch milliseconds.
    """

    done: list[Outcome] = field(default_factory=list)
    lost: list[Outcome] = field(default_factory=list)
    due_ms: dict[bytes, float] = field(default_factory=dict)

    def __add__(self, other: Settled) -> Settled:
        return Settled(self.done + other.done, self.lost + other.lost, self.due_ms | other.due_ms)


def each_as(kind: type[T]) -> Callable[[Any], Callable[[Sequence[Any]], T]]:
    """A psycopg row factory. Raises TypeError when a statement's columns are not the fields of `kind`."""

    def factory(cursor: Any) -> Callable[[Sequence[Any]], T]:
        columns = tuple(column.name for column in cursor.description or ())
        if cursor.description and columns != kind.__struct_fields__:
            raise TypeError(f"{kind.__name__} has the fields {kind.__struct_fields__}, the statement answers {columns}")
        return lambda values: kind(*values)

    return factory
