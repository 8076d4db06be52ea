"""The job timeline: what each worker process did when, one bar an attempt, with deaths and restarts marked.

A run has more jobs than a figure has rows, so a sample is drawn: first the jobs that something happened to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from notebooks.analysis.drawing import (
    EXECUTIONS,
    FAIL,
    INK,
    MUTED,
    Chart,
    describe_faults,
    fired,
    styled,
    time_figure,
)
from notebooks.analysis.frames import Frames

SAMPLE = 200
MEANING = {
    "ok": "ended",
    "error": "raised",
    "cut": "never ended: its process died",
    "stale": "ended after another attempt had started",
}


@styled
def timeline(frames: Frames) -> Chart:
    """Bars by worker process; a row within a process only keeps concurrent bars apart."""
    chosen = interesting_jobs(frames)
    bars = frames.executions[frames.executions["job_id"].isin(chosen)].copy()
    bars["end_s"] = bars["end_s"].fillna(_death(frames, bars))
    bars["row"], pids = _rows(bars)
    rows = int(bars["row"].max()) + 1 if len(bars) else 1
    made, (axes,) = time_figure(frames, [min(6.5, 1.2 + 0.085 * rows)], "Job timeline")
    _draw_bars(axes, frames, bars)
    _draw_links(axes, bars)
    _draw_processes(axes, frames, bars, pids)
    axes.set_ylim(rows + 0.5, -1)
    counts = bars["outcome"].value_counts()
    told = ", ".join(f"{counts[name]:,} {meaning}" for name, meaning in MEANING.items() if name in counts)
    caption = (
        f"n = {len(chosen):,} of {frames.jobs['job_id'].nunique():,} accepted jobs, {len(bars):,} attempts "
        f"({told}), on {len(pids)} worker processes. Chosen first: cut off or stale attempts, then "
        "unfinished, dead-lettered and retried jobs, then an even sample. Short bars are drawn wider than "
        "they were."
    )
    return Chart(
        made,
        caption,
        f"Job timeline of {len(chosen):,} jobs: {told or 'no body ran'}. {describe_faults(frames)}",
    )


def interesting_jobs(frames: Frames, limit: int = SAMPLE) -> list[str]:
    """At most `limit` job ids: what something happened to first, the rest evenly over time."""
    jobs = frames.jobs.dropna(subset="job_id").set_index("job_id")
    executions = frames.executions
    broken = set(executions.loc[executions["outcome"].isin(["cut", "stale"]), "job_id"])
    repeated = executions["job_id"].value_counts().reindex(jobs.index, fill_value=0) > 1
    score = pd.Series(
        8 * jobs.index.isin(broken).astype(int)
        + 4 * (~jobs["finished"]).astype(int)
        + 2 * (jobs["status"] == "FAILED").astype(int)
        + repeated.astype(int),
        index=jobs.index,
    )
    ranked = score[score > 0].sort_values(ascending=False, kind="stable").index[:limit]
    rest = jobs.index[score == 0]
    spare = min(limit - len(ranked), len(rest))
    even = rest[np.linspace(0, len(rest) - 1, spare).astype(int)]
    return [str(job_id) for job_id in (*ranked, *even)]


def _death(frames: Frames, bars: pd.DataFrame) -> pd.Series[float]:
    """Where a bar without an end stops: its process's death, else the job's next start, else the cutoff."""
    deaths = fired(frames).dropna(subset="pid").groupby("pid")["onset_to_s"].max()
    known = bars["pid"].map(deaths)
    return known.where(known >= bars["start_s"]).fillna(bars["next_start_s"]).fillna(frames.span[1])


def _rows(bars: pd.DataFrame) -> tuple[pd.Series[int], list[int]]:
    """The lowest free row for each bar within its process, processes stacked in the order of their first
    start.
    """
    rows = pd.Series(0, index=bars.index, dtype="int64")
    pids = list(bars.sort_values("start_s")["pid"].unique())
    base = 0
    for pid in pids:
        free_at: list[float] = []
        for index, bar in bars[bars["pid"] == pid].sort_values("start_s").iterrows():
            row = next((number for number, free in enumerate(free_at) if free <= bar["start_s"]), len(free_at))
            free_at[row : row + 1] = [bar["end_s"] + 0.05]
            rows.loc[index] = base + row
        base += len(free_at) + 2
    return rows, [int(pid) for pid in pids]


def _draw_bars(axes: Axes, frames: Frames, bars: pd.DataFrame) -> None:
    least = (frames.span[1] - frames.span[0]) * 0.0022
    for outcome, colour in EXECUTIONS.items():
        some = bars[bars["outcome"] == outcome]
        width = (some["end_s"] - some["start_s"]).clip(lower=least)
        axes.barh(some["row"], width, 0.78, left=some["start_s"], color=colour, lw=0, zorder=2)
    handles: list[Any] = [
        Patch(color=colour, label=MEANING[outcome].split(":")[0])
        for outcome, colour in EXECUTIONS.items()
        if (bars["outcome"] == outcome).any()
    ]
    handles.append(Line2D([], [], color=INK, lw=0.8, ls=(0, (2, 1.5)), label="death → restart"))
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6)


def _draw_links(axes: Axes, bars: pd.DataFrame) -> None:
    """From each cut-off bar to the job's next start, at most forty."""
    for _, bar in bars[bars["outcome"] == "cut"].dropna(subset="next_start_s").head(40).iterrows():
        later = bars[(bars["job_id"] == bar["job_id"]) & (bars["start_s"] == bar["next_start_s"])]
        for _, restart in later.head(1).iterrows():
            x, y = [bar["end_s"], restart["start_s"]], [bar["row"], restart["row"]]
            axes.plot(x, y, color=INK, lw=0.8, ls=(0, (2, 1.5)), zorder=3)


def _draw_processes(axes: Axes, frames: Frames, bars: pd.DataFrame, pids: list[int]) -> None:
    """A ground for each process as long as it was seen, its pid, and a cross where it was killed."""
    kills = fired(frames)[fired(frames)["family"].isin(["kill", "crash"])].dropna(subset="pid")
    ticks = []
    for pid in pids:
        own = bars[bars["pid"] == pid]
        top, bottom = own["row"].min() - 0.7, own["row"].max() + 0.7
        dead = kills[kills["pid"] == pid]["onset_to_s"]
        until = float(dead.min()) if len(dead) else frames.span[1]
        begin = min(own["start_s"].min(), until)
        axes.fill_between([begin, until], top, bottom, color=MUTED, alpha=0.10, lw=0, zorder=0.6)
        ticks.append(((top + bottom) / 2, f"pid {pid}"))
        if len(dead):
            axes.plot(until, top, "X", color=FAIL, ms=9, mec="white", mew=1, zorder=4)
            x = until + (frames.span[1] - frames.span[0]) * 0.008
            axes.text(x, top, "killed", color=FAIL, fontsize=8, va="center")
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
