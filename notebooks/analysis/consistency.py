"""Whether a record can be trusted to be one: what a report asserts about its own input, never a verdict.

Each rule holds for every run that the harness can record, whatever the system under test did; a broken one
means a damaged or edited folder, or a fault in the harness.
"""

from __future__ import annotations

from collections.abc import Iterator

from chaos.record.verdict import compose
from notebooks.analysis.frames import Frames


def problems(frames: Frames) -> list[str]:
    """Everything that contradicts itself in the record; empty for a sound one."""
    return [*_judgement(frames), *_times(frames), *_joins(frames)]


def _judgement(frames: Frames) -> Iterator[str]:
    worst = compose([check.verdict for check in frames.judgement.checks])
    if frames.judgement.verdict != worst:
        yield f"the verdict is {frames.judgement.verdict}, but the worst of its checks is {worst}"


def _times(frames: Frames) -> Iterator[str]:
    operations, executions, faults = frames.operations, frames.executions, frames.faults
    backwards = {
        "operations complete before they begin": operations["completed_s"] < operations["invoked_s"],
        "operations begin before they were intended": operations["invoked_s"] < operations["intended_s"],
        "executions end before they start": executions["end_s"] < executions["start_s"],
        "faults heal before they begin": faults["heal_from_s"] < faults["onset_from_s"],
    }
    for what, mask in backwards.items():
        if mask.any():
            yield f"{int(mask.sum())} {what}"


def _joins(frames: Frames) -> Iterator[str]:
    accepted = frames.jobs[frames.jobs["outcome"] == "ok"]["job_id"]
    if accepted.isna().any():
        yield f"{int(accepted.isna().sum())} submits were answered ok without an id"
    if accepted.duplicated().any():
        yield f"{int(accepted.duplicated().sum())} ids were given to two idempotency keys"
