"""What a run's tables say in numbers: latencies, retry delays, recoveries, availability, bounds on losses.

Pure functions from `frames` to small tables. Each definition is in the docstring of the function that owns
it; nothing here decides a verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from notebooks.analysis import stats
from notebooks.analysis.frames import Frames

QUANTILES = (0.5, 0.95, 0.99)
INTERVALS = "95 % intervals by order statistics"


@dataclass(frozen=True, slots=True)
class Losses:
    """How many accepted jobs never became final, and what that leaves plausible at 95 %."""

    accepted: int
    unfinished: int
    faults: int
    fault_bound: float
    job_share: stats.Interval


def quantile_table(seconds: pd.Series[float]) -> pd.DataFrame:
    """Quantiles with their 95 % order-statistic intervals. No p99.9: that needs 10,000 values."""
    rows = []
    for q in QUANTILES:
        found = stats.quantile_interval(seconds.to_numpy(), q)
        rows.append({"q": q, "seconds": found.point, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def bucket_seconds(frames: Frames) -> float:
    """Width of the time buckets: 1 s for runs up to two minutes, else 5 s."""
    return 1.0 if frames.span[1] - frames.span[0] <= 120 else 5.0


def bucketed_quantiles(frames: Frames, at_s: pd.Series[float], seconds: pd.Series[float]) -> pd.DataFrame:
    """p50, p95 and p99 of the values in each time bucket, at its middle; NaN for an empty one."""
    width = bucket_seconds(frames)
    bucket = np.floor((at_s - frames.span[0]) / width)
    rows = [{"bucket": at, "n": len(group), **_quantiles(group)} for at, group in seconds.groupby(bucket)]
    table = pd.DataFrame(rows, columns=pd.Index(["bucket", "n", "p50", "p95", "p99"])).set_index("bucket")
    every = np.arange(bucket.min(), bucket.max() + 1) if rows else np.array([])
    table = table.reindex(every)
    table.insert(0, "at_s", frames.span[0] + (every + 0.5) * width)
    return table


def _quantiles(seconds: pd.Series[float]) -> dict[str, float]:
    return {f"p{q * 100:.0f}": stats.quantile(seconds.to_numpy(), q) for q in QUANTILES}


def rate(frames: Frames, at_s: pd.Series[float]) -> pd.DataFrame:
    """Events a second in each time bucket, empty ones included."""
    width = bucket_seconds(frames)
    start, end = frames.span
    edges = np.arange(start, end + width, width)
    counts, _ = np.histogram(at_s.dropna(), bins=edges)
    return pd.DataFrame({"at_s": edges[:-1], "per_second": counts / width})


def availability(frames: Frames) -> stats.Interval:
    """The share of seconds with arrivals in which a submit was accepted, with its Wilson interval."""
    submits = frames.submits
    second = np.floor(submits["intended_s"])
    good = (submits["outcome"] == "ok").groupby(second).any()
    return stats.wilson(int(good.sum()), len(good))


def losses(frames: Frames) -> Losses:
    """Unfinished among the accepted. The bound counts faults, because losses cluster in them."""
    accepted = frames.jobs[frames.jobs["outcome"] == "ok"]
    unfinished = int((~accepted["finished"]).sum())
    faults = frames.record.fault_count
    bound = stats.zero_failure_bound(faults) if unfinished == 0 else math.nan
    return Losses(len(accepted), unfinished, faults, bound, stats.wilson(unfinished, len(accepted)))


def generator_lag(frames: Frames) -> tuple[float, float]:
    """How late the load generator sent (p99, seconds), and that as a share of the end-to-end p99.

    Above 5 % the latencies say as much about the generator as about the scheduler.
    """
    first = frames.submits.sort_values("invoked_s").groupby("key", sort=False).first()
    lag = stats.quantile((first["invoked_s"] - first["intended_s"]).to_numpy(), 0.99)
    whole = stats.quantile(frames.jobs["end_to_end_s"].to_numpy(), 0.99)
    return lag, lag / whole if whole else math.nan


def retry_delays(frames: Frames) -> pd.DataFrame:
    """For each failed attempt that was followed by another: how long it took, and what was promised.

    Observed from the end of the failed body to the start of the next, both from the ledger; the promise is
    base times 2^(n-1) seconds. An attempt cut off by a death has no such promise and is left out.
    """
    settings = frames.manifest.settings
    found = frames.executions[frames.executions["outcome"] == "error"].dropna(subset="next_start_s").copy()
    found["retry"] = found["attempt"].astype("int64")
    found["observed_s"] = found["next_start_s"] - found["end_s"]
    found["promised_s"] = settings.backoff_base_seconds * settings.backoff_factor ** (found["retry"] - 1)
    found["late_s"] = found["observed_s"] - found["promised_s"]
    return found[["job_id", "type", "retry", "end_s", "observed_s", "promised_s", "late_s"]]


def resumption(frames: Frames) -> pd.DataFrame:
    """How fast things went on after each fault that was healed; NaN where the record does not show it.

    Seconds from the healing to the first accepted submit, to the first body that started, and to a backlog no
    larger than in the five seconds before the onset.
    """
    rows = [
        {
            "number": fault["number"],
            "label": fault["label"],
            "family": fault["family"],
            "first_accept_s": _first_after(frames.jobs["accepted_s"], fault["heal_to_s"]),
            "first_start_s": _first_after(frames.executions["start_s"], fault["heal_to_s"]),
            "backlog_s": _backlog_normal(frames, fault["onset_from_s"], fault["heal_to_s"]),
        }
        for fault in frames.faults.dropna(subset="heal_to_s").to_dict("records")
    ]
    columns = ["number", "label", "family", "first_accept_s", "first_start_s", "backlog_s"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def _first_after(times: pd.Series[float], after_s: float) -> float:
    later = times[times >= after_s]
    return float(later.min() - after_s) if len(later) else math.nan


def _backlog_normal(frames: Frames, onset_s: float, heal_s: float) -> float:
    samples = frames.samples.dropna(subset="unfinished")
    before = samples[(samples["at_s"] >= onset_s - 5) & (samples["at_s"] < onset_s)]["unfinished"]
    if before.empty:
        return math.nan
    later = samples[(samples["at_s"] >= heal_s) & (samples["unfinished"] <= before.max())]["at_s"]
    return float(later.min() - heal_s) if len(later) else math.nan
