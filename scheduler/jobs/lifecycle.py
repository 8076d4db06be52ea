"""The lifecycle as data: every arrow that a job can take, and pure functions over the table.

The statements in `storage/queries` take these arrows and no other, which a test compares; `settle` is given the columns
of each rule. The diagram in `docs/protocol.md` is drawn from here, the CHECK constraints in the schema repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where a job stands; the last three are final."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Whether nothing but a redrive leaves this status."""
        return self in FINAL


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Transition(StrEnum):
    """Why a job changes its status. RECLAIM: its holder claims it again, as the reply to its claim was lost."""

    CLAIM = "claim"
    RECLAIM = "reclaim"
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
    """Where a transition may start, where it ends, and what it does to the rest of the row.

    `attempt` and `crashes` are added to their columns (None: back to zero), `fence` too. `moves_due`: the job is due a
    delay from now, else when it was. `at_once`: the reconciler may publish it without waiting for whoever wrote it.
    """

    sources: frozenset[Status]
    target: Status
    attempt: int | None = 0
    crashes: int | None = 0
    fence: int = 0
    moves_due: bool = False
    at_once: bool = False


_PENDING, _RUNNING = frozenset({Status.PENDING}), frozenset({Status.PROCESSING})
RULES: dict[Transition, Rule] = {
    Transition.CLAIM: Rule(_PENDING, Status.PROCESSING, attempt=+1, fence=+1),
    Transition.RECLAIM: Rule(_RUNNING, Status.PROCESSING, fence=+1),
    Transition.COMPLETE: Rule(_RUNNING, Status.COMPLETED),
    Transition.RETRY: Rule(_RUNNING, Status.PENDING, crashes=None, moves_due=True),
    Transition.FAIL: Rule(_RUNNING, Status.FAILED),
    Transition.SNOOZE: Rule(_RUNNING, Status.PENDING, attempt=-1, moves_due=True),
    Transition.RELEASE: Rule(_RUNNING, Status.PENDING, attempt=-1),
    Transition.RESCUE: Rule(_RUNNING, Status.PENDING, crashes=+1, moves_due=True, at_once=True),
    Transition.CANCEL: Rule(_PENDING | _RUNNING, Status.CANCELLED),
    Transition.REDRIVE: Rule(frozenset({Status.FAILED}), Status.PENDING, None, None, moves_due=True, at_once=True),
}


def apply(status: Status, attempt: int, transition: Transition) -> tuple[Status, int]:
    """The status and attempt after `transition`. Raises ValueError where the table has no such arrow."""
    rule = RULES[transition]
    if status not in rule.sources:
        raise ValueError(f"{transition} cannot start from {status}; it starts from {sorted(rule.sources)}")
    return rule.target, 0 if rule.attempt is None else attempt + rule.attempt


def after_failure(attempt: int, max_attempts: int) -> Transition:
    """What becomes of a job whose handler failed in `attempt`."""
    return Transition.RETRY if attempt < max_attempts else Transition.FAIL


def after_death(attempt: int, max_attempts: int) -> Transition:
    """What becomes of a job whose worker died in `attempt`: the crash was an attempt."""
    return Transition.RESCUE if attempt < max_attempts else Transition.FAIL


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    arrows = [f"{source} --> {rule.target}: {why}" for why, rule in RULES.items() for source in sorted(rule.sources)]
    ends = [f"{status} --> [*]" for status in sorted(FINAL)]
    return "\n    ".join(["stateDiagram-v2", "[*] --> PENDING: submit", *arrows, *ends])
