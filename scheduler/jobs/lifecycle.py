"""The lifecycle as data: every legal transition of a job, and pure functions over the table.

`docs/protocol.md` draws its diagram from here and the CHECK constraints in the schema repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Transition(StrEnum):
    CLAIM = "claim"
    COMPLETE = "complete"
    RETRY = "retry"
    FAIL = "fail"
    SNOOZE = "snooze"
    RELEASE = "release"
    RESCUE = "rescue"
    CANCEL = "cancel"
    REDRIVE = "redrive"


@dataclass(frozen=True, slots=True)
class Rule:
    """Where a transition may start, where it ends, and what it adds to `attempt` (None: back to zero)."""

    sources: frozenset[Status]
    target: Status
    attempt: int | None = 0


RULES: dict[Transition, Rule] = {
    Transition.CLAIM: Rule(frozenset({Status.PENDING}), Status.PROCESSING, +1),
    Transition.COMPLETE: Rule(frozenset({Status.PROCESSING}), Status.COMPLETED),
    Transition.RETRY: Rule(frozenset({Status.PROCESSING}), Status.PENDING),
    Transition.FAIL: Rule(frozenset({Status.PROCESSING}), Status.FAILED),
    Transition.SNOOZE: Rule(frozenset({Status.PROCESSING}), Status.PENDING, -1),
    Transition.RELEASE: Rule(frozenset({Status.PROCESSING}), Status.PENDING, -1),
    Transition.RESCUE: Rule(frozenset({Status.PROCESSING}), Status.PENDING),
    Transition.CANCEL: Rule(frozenset({Status.PENDING, Status.PROCESSING}), Status.CANCELLED),
    Transition.REDRIVE: Rule(frozenset({Status.FAILED}), Status.PENDING, None),
}


def is_legal(source: Status, transition: Transition) -> bool:
    return source in RULES[transition].sources


def apply(status: Status, attempt: int, transition: Transition) -> tuple[Status, int]:
    """The status and attempt after `transition`. Raises ValueError where the table has no such arrow."""
    rule = RULES[transition]
    if status not in rule.sources:
        raise ValueError(f"{transition} cannot start from {status}; it starts from {sorted(rule.sources)}")
    return rule.target, 0 if rule.attempt is None else attempt + rule.attempt


def after_death(attempt: int, max_attempts: int) -> Transition:
    """What becomes of a job whose worker died in `attempt`: the crash was an attempt."""
    return Transition.RESCUE if attempt < max_attempts else Transition.FAIL


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> PENDING: submit"]
    for transition, rule in RULES.items():
        lines += [f"    {source} --> {rule.target}: {transition}" for source in sorted(rule.sources)]
    lines += [f"    {status} --> [*]" for status in sorted(FINAL)]
    return "\n".join(lines)
