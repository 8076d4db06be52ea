"""A trace: every fact that a process tells from now on, one JSON line each, for tests and for the model.

A module that SCHEDULER_JOBS names may call `trace` in API and workers alike; they may write to one file.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from scheduler.facts.facts import FACTS, Told, ident, listen


def trace(path: Path) -> Callable[[], None]:
    """Append to `path`: `at` (monotonic seconds), `pid`, `fact`, `amount`, `ids`, and the fact's fields, if any.

    Returns what ends that. `ids` are those of jobs, or of stream entries; empty where only their number is known.
    """
    file = path.open("ab", buffering=0)  # unbuffered: the last fact before a SIGKILL is there

    def write(told: Told) -> None:
        ids = [ident(each) for each in told.of]
        line = {"at": time.monotonic(), "pid": os.getpid(), "fact": told.fact.name, "amount": told.amount, "ids": ids}
        file.write(json.dumps({**line, **told.fields}, default=str).encode() + b"\n")

    ends = [listen(fact, write) for fact in FACTS]

    def end() -> None:
        for each in ends:
            each()
        file.close()

    return end
