"""A run folder as tidy tables, all times in seconds since the run began.

Owns the joins that a table needs: a job's submits with its final answer, an execution's start with its end,
a fault with its healing. The record itself is read by `chaos.record.runs`; nothing is judged here. A run that broke
off is read as far as it got, a folder that is no run raises `RunUnreadable` with the file and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from chaos.errors import RunUnreadable
from chaos.judge import recovery
from chaos.record.history import NEMESIS, Call, Final, Operation, Run, Sample, Window, calls, logical
from chaos.record.plan import Manifest
from chaos.record.runs import load_judgement, load_run
from chaos.record.verdict import Judgement

INSTANT = ("kill", "flush", "clock", "configure", "crash", "raise", "reply_lost")


@dataclass(frozen=True, slots=True)
class Clock:
    """Both clocks of a run's host as seconds since the run began."""

    mono_origin_ns: int
    wall_origin: float

    def mono(self, time_ns: float) -> float:
        return (time_ns - self.mono_origin_ns) / 1e9

    def wall(self, stamps: Iterable[str | None]) -> pd.Series[float]:
        times = pd.to_datetime(pd.Series(list(stamps), dtype="object"), utc=True, format="ISO8601")
        seconds = (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(1, "s")
        return seconds.astype("float64") - self.wall_origin


@dataclass(frozen=True, slots=True)
class Frames:
    """Everything one run recorded. `span` is the part worth drawing: the first phase up to the end of the
    drain.
    """

    record: Run
    judgement: Judgement
    span: tuple[float, float]
    phases: pd.DataFrame
    faults: pd.DataFrame
    operations: pd.DataFrame
    jobs: pd.DataFrame
    executions: pd.DataFrame
    attempts: pd.DataFrame
    samples: pd.DataFrame
    orphans: pd.DataFrame

    @property
    def manifest(self) -> Manifest:
        return self.record.manifest

    @property
    def submits(self) -> pd.DataFrame:
        return self.operations[self.operations["f"] == "submit"]


def load(folder: str | Path) -> Frames:
    """Read a run folder; raises `RunUnreadable`, which names the file and what to do."""
    path = Path(folder).resolve()
    run = load_run(path)
    if not run.history:
        missing = path / "history.jsonl"
        raise RunUnreadable(f"{missing} is missing or empty: the run never began; start another, `chaos run NAME`")
    clock = Clock(run.manifest.mono_origin_ns, run.manifest.wall_origin)
    phases = phase_table(run, clock)
    span = _span(phases, clock.mono(max(line.time_ns for line in run.history)))
    operations = operation_table(run.history, clock, span[1])
    return Frames(
        record=run,
        judgement=_judgement(path),
        span=span,
        phases=phases,
        faults=fault_table(run, clock, span[1]),
        operations=operations,
        jobs=job_table(operations, run.finals, clock, span[1]),
        executions=execution_table(run, clock),
        attempts=attempt_table(run.finals, clock),
        samples=sample_table(run.samples, clock),
        orphans=orphan_table(run, clock, span[1]),
    )


def operation_table(history: list[Operation], clock: Clock, cutoff_s: float) -> pd.DataFrame:
    """What clients asked, one row an operation; latency counts from the intended time, not the sending."""
    rows = [_operation(call, clock) for call in calls(history) if call.begun.process != NEMESIS]
    table = pd.DataFrame(rows, columns=pd.Index(OPERATION))
    table["latency_s"] = table["completed_s"].fillna(cutoff_s) - table["intended_s"]
    return table


def _operation(call: Call, clock: Clock) -> dict[str, Any]:
    begun, done = call.begun, call.done
    value, answer = _mapping(begun.value), _mapping(done.value if done else None)
    return {
        "op": begun.op,
        "process": begun.process,
        "f": begun.f,
        "type": value.get("type"),
        "key": logical(begun) if begun.f == "submit" else None,
        "job_id": answer.get("id") or value.get("id"),
        "intended_s": clock.mono(value.get("intended_ns") or begun.time_ns),
        "delay_s": float(value.get("delay_seconds") or 0.0),
        "invoked_s": clock.mono(begun.time_ns),
        "completed_s": clock.mono(done.time_ns) if done else np.nan,
        "outcome": call.type,
        "error": done.error if done else "never completed",
    }


def job_table(operations: pd.DataFrame, finals: list[Final], clock: Clock, cutoff_s: float) -> pd.DataFrame:
    """One row a job asked for: its submits joined by key, and what became of it.

    `end_to_end_s` runs from the intended time (later by the delay asked for) to the final status; where
    `finished` is false the record ended first, and it is only a lower bound.
    """
    submits = operations[operations["f"] == "submit"]
    accepted = submits[submits["outcome"] == "ok"].sort_values("completed_s").groupby("key", sort=False).first()
    every = submits.groupby("key", sort=False)
    jobs = every.agg(
        type=("type", "first"),
        intended_s=("intended_s", "min"),
        delay_s=("delay_s", "max"),
        submits=("op", "size"),
    )
    jobs["job_id"] = accepted["job_id"].reindex(jobs.index)
    jobs["accepted_s"] = accepted["completed_s"].reindex(jobs.index)
    jobs["submit_s"] = jobs["accepted_s"] - jobs["intended_s"]
    jobs["outcome"] = every["outcome"].last().reindex(jobs.index).where(jobs["accepted_s"].isna(), "ok")
    jobs = jobs.reset_index().merge(_final_table(finals, clock), how="left", on="job_id")
    jobs["finished"] = jobs["finished_s"].notna()
    end = jobs["finished_s"].fillna(cutoff_s)
    jobs["end_to_end_s"] = (end - jobs["intended_s"] - jobs["delay_s"]).clip(lower=1e-6)
    return jobs


def execution_table(run: Run, clock: Clock) -> pd.DataFrame:
    """One row a run of a job's body, from the ledger: outcome ok, error, cut (no end), stale (ended too
    late).
    """
    rows = [msgspec.structs.asdict(each) for runs in run.executions.values() for each in runs]
    columns = ["job_id", "type", "attempt", "pid", "start_ns", "event", "close_ns"]
    found = pd.DataFrame(rows, columns=pd.Index(columns))
    for name, column in (("start_s", "start_ns"), ("end_s", "close_ns")):
        found[name] = (found.pop(column).astype("float64") - clock.mono_origin_ns) / 1e9
    found = found.sort_values(["start_s", "job_id"], ignore_index=True)
    found["next_start_s"] = found.groupby("job_id")["start_s"].shift(-1)
    found["outcome"] = found.pop("event").map({"end": "ok", "error": "error"}).fillna("cut")
    found.loc[found["end_s"] > found["next_start_s"], "outcome"] = "stale"
    return found


def attempt_table(finals: list[Final], clock: Clock) -> pd.DataFrame:
    """The attempts the API told of; a first one that succeeded may be missing."""
    rows = [{"job_id": final.id, **msgspec.structs.asdict(each)} for final in finals for each in final.attempts]
    columns = ["job_id", "attempt", "status", "started_at", "finished_at", "error"]
    table = pd.DataFrame(rows, columns=pd.Index(columns))
    table["started_s"] = clock.wall(table.pop("started_at"))
    table["finished_s"] = clock.wall(table.pop("finished_at"))
    return table


def sample_table(samples: list[Sample], clock: Clock) -> pd.DataFrame:
    """The stores over time; NaN where a store was out of reach."""
    rows = [msgspec.structs.asdict(sample) for sample in samples]
    table = pd.DataFrame(rows, columns=pd.Index(Sample.__struct_fields__), dtype="float64")
    table.insert(0, "at_s", (table.pop("time_ns") - clock.mono_origin_ns) / 1e9)
    return table


def phase_table(run: Run, clock: Clock) -> pd.DataFrame:
    rows = [(each.name, clock.mono(each.start_ns), clock.mono(each.end_ns)) for each in run.manifest.phases]
    return pd.DataFrame(rows, columns=pd.Index(["name", "start_s", "end_s"]))


def fault_table(run: Run, clock: Clock, cutoff_s: float) -> pd.DataFrame:
    """Faults as windows, those too that jobs and clients made. The onset lies between the call and its return, and so
    does the healing.

    `end_s` is where the band ends: the healing, the onset of an instant fault, or the cutoff of one never
    healed.
    """
    rows: list[dict[str, Any]] = []
    for call in calls(run.history, process=NEMESIS):
        if call.begun.f == "heal":
            _heal(rows, call, clock)
        else:
            rows.append(_fault(call, clock, cutoff_s))
    rows += [_own(window, clock) for window in run.own_windows]
    rows.sort(key=lambda row: float(row["onset_from_s"]))
    table = pd.DataFrame(rows, columns=pd.Index(FAULT))
    table.insert(0, "number", np.arange(1, len(table) + 1))
    instant = table["onset_to_s"].where(table["family"].isin(INSTANT), cutoff_s)
    table["end_s"] = table["heal_to_s"].fillna(instant).astype("float64")
    return table


def _fault(call: Call, clock: Clock, cutoff_s: float) -> dict[str, Any]:
    value = {**_mapping(call.begun.value), **_mapping(call.done.value if call.done else None)}
    name, target = call.begun.f, str(value.get("target") or "")
    return {
        "fault": name,
        "target": target,
        "family": name.partition(".")[0],
        "label": f"{name} {target}".strip(),
        "outcome": call.type,
        "pid": value.get("pid"),
        "onset_from_s": clock.mono(call.begun.time_ns),
        "onset_to_s": clock.mono(call.done.time_ns) if call.done else cutoff_s,
        "heal_from_s": np.nan,
        "heal_to_s": np.nan,
    }


def _own(window: Window, clock: Clock) -> dict[str, Any]:
    healed = np.nan if window.healed_ns is None else clock.mono(window.healed_ns)
    return {
        "fault": window.fault,
        "target": window.target,
        "family": window.fault,
        "label": window.fault,
        "outcome": "ok",
        "pid": window.pid,
        "onset_from_s": clock.mono(window.invoked_ns),
        "onset_to_s": clock.mono(window.invoked_ns),
        "heal_from_s": healed,
        "heal_to_s": healed,
    }


def _heal(rows: list[dict[str, Any]], call: Call, clock: Clock) -> None:
    value = _mapping(call.begun.value)
    for row in rows:
        same = (row["fault"], row["target"]) == (value.get("fault"), value.get("target"))
        if same and np.isnan(row["heal_to_s"]) and call.done and call.type == "ok":
            row["heal_from_s"] = clock.mono(call.begun.time_ns)
            row["heal_to_s"] = clock.mono(call.done.time_ns)
            return


def orphan_table(run: Run, clock: Clock, cutoff_s: float) -> pd.DataFrame:
    """Bodies cut off by their worker's death or freeze, and how long their jobs waited to start again.

    The wait is counted from the call of the fault, so it is never too short. Where `restarted` is false, the
    record ended first. The same orphans as the recovery check counts.
    """
    bound = run.settings.lease_seconds + recovery.ALLOWANCE_SECONDS
    rows = [
        {
            "fault": window.fault,
            "target": window.target,
            "at_s": clock.mono(window.invoked_ns),
            "job_id": orphan.id,
            "queued": orphan.queued,
            "seconds": cutoff_s - clock.mono(window.onset_ns) if orphan.seconds is None else orphan.seconds,
            "restarted": orphan.seconds is not None,
        }
        for window in run.windows
        for orphan in recovery.orphans_of(run, window, bound)
    ]
    columns = ["fault", "target", "at_s", "job_id", "queued", "seconds", "restarted"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _final_table(finals: list[Final], clock: Clock) -> pd.DataFrame:
    rows = [(each.id, each.status, each.attempt, each.finished_at if each.is_final else None) for each in finals]
    table = pd.DataFrame(rows, columns=pd.Index(["job_id", "status", "attempt", "finished_at"]))
    table["finished_s"] = clock.wall(table.pop("finished_at"))
    return table.drop_duplicates("job_id", keep="last")


def _judgement(path: Path) -> Judgement:
    if (path / "verdict.json").is_file():
        return load_judgement(path)
    return Judgement("unknown", [], 0, 0, "Nothing proved: the run ended before it was judged.")


def _span(phases: pd.DataFrame, last_s: float) -> tuple[float, float]:
    drawn = phases[phases["name"] != "judge"]
    if drawn.empty:
        return 0.0, max(last_s, 1e-3)
    return float(min(0.0, drawn["start_s"].min())), float(drawn["end_s"].max())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


OPERATION = [
    "op",
    "process",
    "f",
    "type",
    "key",
    "job_id",
    "intended_s",
    "delay_s",
    "invoked_s",
    "completed_s",
    "outcome",
    "error",
]
FAULT = [
    "fault",
    "target",
    "family",
    "label",
    "outcome",
    "pid",
    "onset_from_s",
    "onset_to_s",
    "heal_from_s",
    "heal_to_s",
]
