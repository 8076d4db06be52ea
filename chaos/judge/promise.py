"""A promise as a value: its name, who demands it, and the pure function that judges a run by it.

A judge compares independent records: what the client was told, what the job bodies wrote, what was broken when, and
only then what the scheduler says of itself. None reads a clock, a file or a server. One that raises has found out
nothing: its check is unknown, and the others judge all the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from chaos.record.history import Run
from chaos.record.verdict import Check, Finding


@dataclass(frozen=True, slots=True)
class Promise:
    """What a run must have kept. `source` is where the demand or the way of judging it comes from."""

    name: str
    source: str
    judge: Callable[[Run], Finding]

    @property
    def sentence(self) -> str:
        """What is promised: the first line of the judge's docstring."""
        return (self.judge.__doc__ or self.name).partition("\n")[0]

    def check(self, run: Run) -> Check:
        """Judge the run. Never raises: a judge that does has its traceback in the details of an unknown check."""
        try:
            found = self.judge(run)
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].strip()
            found = Finding("unknown", f"could not be judged: {last}", {"traceback": traceback.format_exc()})
        return Check(self.name, found.verdict, found.summary, found.details, found.examples)


def promise(name: str, *, source: str) -> Callable[[Callable[[Run], Finding]], Promise]:
    """Make a promise of the function that judges a run by it."""
    return lambda judge: Promise(name, source, judge)
