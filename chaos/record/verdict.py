"""Verdicts and their arithmetic: what one check found, how checks compose, and what zero losses are worth."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Verdict = Literal["valid", "invalid", "unknown"]

SEVERITY: tuple[Verdict, ...] = ("valid", "unknown", "invalid")
EXAMPLES = 5  # offenders shown in a finding


class Finding(msgspec.Struct, frozen=True):
    """What a judge found: `summary` is a sentence, `details` numbers, `examples` the first offenders."""

    verdict: Verdict
    summary: str
    details: dict[str, Any] = {}
    examples: list[Any] = []


class Check(msgspec.Struct, frozen=True):
    """A finding under the name of its promise; one of the `checks` of verdict.json."""

    name: str
    verdict: Verdict
    summary: str
    details: dict[str, Any] = {}
    examples: list[Any] = []


class Judgement(msgspec.Struct, frozen=True):
    """A whole run judged; the form of verdict.json."""

    verdict: Verdict
    checks: list[Check]
    faults: int
    jobs: int
    sentence: str


def compose(verdicts: list[Verdict]) -> Verdict:
    """The worst of them: invalid > unknown > valid. Nothing judged is unknown.

    Source: jepsen checker.clj `merge-valid`.
    """
    return max(verdicts, key=SEVERITY.index, default="unknown")


def loss_bound(faults: int) -> float:
    """95 % upper bound for the chance that one fault loses something, after `faults` faults lost nothing.

    Exact: 1 - 0.05^(1/N), about 3/N. N counts faults, not jobs, because losses cluster.
    Source: Clopper-Pearson for zero events ("rule of three").
    """
    return 1.0 - 0.05 ** (1.0 / faults) if faults > 0 else 1.0


def plural(count: int, noun: str) -> str:
    """`1 fault`, `2 faults`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def broken(offenders: list[Any], bad: str, good: str, **details: Any) -> Finding:
    """Invalid with the first offenders as examples, or valid when there are none."""
    if offenders:
        return Finding("invalid", bad, {"count": len(offenders), **details}, offenders[:EXAMPLES])
    return Finding("valid", good, {"count": 0, **details})
