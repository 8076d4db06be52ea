"""The charts of latency: how long until a job is accepted, and until it is final, as shares and over time.

Latency counts from the intended time. Jobs that the record ended before are right-censored, never left out.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from notebooks.analysis import measures, stats
from notebooks.analysis.drawing import (
    INK,
    OK,
    OUTCOMES,
    STATUSES,
    TYPES,
    Chart,
    bounded,
    describe_faults,
    duration,
    figure,
    legend_above,
    log_seconds,
    percent,
    say_nothing,
    styled,
    time_figure,
)
from notebooks.analysis.frames import Frames


@styled
def submit_latency(frames: Frames) -> Chart:
    """How long clients waited for the 202, from the intended time, repeats included."""
    seconds = frames.jobs["submit_s"].dropna()
    made, (left, right) = figure(3.6, 1, 2)
    left.set_title("Submit latency: share of jobs accepted by then")
    right.set_title("Its tail: share that waited longer")
    if seconds.empty:
        for axes in (left, right):
            say_nothing(axes, "no submit was accepted")
        return Chart(made, "No submit was accepted.", "Submit latency: no submit was accepted.")
    values, shares = stats.ecdf(seconds)
    left.step(values, shares, where="post", color=OK)
    right.step(values, 1 - shares + 1 / values.size, where="pre", color=OK)
    table = measures.quantile_table(seconds)
    _mark_quantiles(left, table)
    _finish_distribution(left, right, values)
    told = _tell_quantiles(table)
    never = int((frames.jobs["outcome"] != "ok").sum())
    caption = (
        f"n = {values.size:,} accepted jobs ({never:,} more were never accepted). {told}; "
        f"{measures.INTERVALS}. Measured from the intended time to the accepting answer, so refused and "
        "repeated tries count."
    )
    return Chart(made, caption, f"Submit latency of {values.size:,} jobs: {told}.")


@styled
def end_to_end_latency(frames: Frames) -> Chart:
    """Intended time to final status; unfinished jobs count as longer than the record, not as absent."""
    jobs = frames.jobs[frames.jobs["outcome"] == "ok"]
    made, (left, right) = figure(4.0, 1, 2)
    left.set_title("End-to-end latency: share of jobs final by then")
    right.set_title("Its tail: share that took longer")
    if jobs.empty:
        for axes in (left, right):
            say_nothing(axes, "no job was accepted")
        return Chart(made, "No job was accepted.", "End-to-end latency: no job was accepted.")
    for colour, (name, group) in zip(TYPES, jobs.groupby("type"), strict=False):
        _survival(left, right, stats.kaplan_meier(group["end_to_end_s"], group["finished"]), colour, str(name))
    whole = stats.kaplan_meier(jobs["end_to_end_s"], jobs["finished"])
    _survival(left, right, whole, INK, "all")
    _finish_distribution(left, right, jobs["end_to_end_s"].to_numpy(), len(jobs))
    made.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=8)
    told = ", ".join(f"p{q * 100:.0f} {duration(whole.quantile(q))}" for q in measures.QUANTILES)
    caption = (
        f"n = {len(jobs):,} accepted jobs, of which {whole.censored:,} were unfinished at the cutoff and "
        f"count as longer (Kaplan-Meier, 95 % band by Greenwood). {told}. From the intended time to the "
        "final status, retries and waiting included."
    )
    return Chart(made, caption, f"End-to-end latency of {len(jobs):,} jobs: {told}; {whole.censored:,} unfinished.")


@styled
def submit_latency_over_time(frames: Frames) -> Chart:
    """Every submit at the time of its answer, by outcome."""
    submits = frames.submits
    made, (axes,) = time_figure(frames, [2.9], "Submit latency over time")
    for outcome, (colour, marker) in OUTCOMES.items():
        some = submits[submits["outcome"] == outcome]
        _scatter(axes, _answered(frames, some), some["latency_s"], colour, marker, f"{outcome} ({len(some):,})")
    good = submits[submits["outcome"] == "ok"]
    _quantile_lines(axes, measures.bucketed_quantiles(frames, good["completed_s"], good["latency_s"]))
    _latency_axis(axes, submits["latency_s"])
    share, counts = measures.availability(frames), submits["outcome"].value_counts()
    caption = (
        f"n = {len(submits):,} submits, each at the time of its answer: ok was accepted, fail certainly "
        "was not, info may have been (timeout, cut, 5xx). Lines: p50 and p95 of ok in buckets of "
        f"{measures.bucket_seconds(frames):g} s. A submit was accepted in {percent(share.point)} of the "
        f"seconds that had any (95 % Wilson interval {percent(share.low)} to {percent(share.high)})."
    )
    told = ", ".join(f"{counts.get(outcome, 0):,} {outcome}" for outcome in OUTCOMES)
    return Chart(made, caption, f"Submit latency over time: {told}. {describe_faults(frames)}")


@styled
def end_to_end_latency_over_time(frames: Frames) -> Chart:
    """Every accepted job at the time it became final, by status; unfinished ones at the cutoff."""
    jobs = frames.jobs[frames.jobs["outcome"] == "ok"]
    status = jobs["status"].where(jobs["finished"], "unfinished")
    made, (axes,) = time_figure(frames, [3.1], "End-to-end latency over time")
    for name, (colour, marker) in STATUSES.items():
        some = jobs[status == name]
        if len(some) or name in ("COMPLETED", "FAILED"):
            _scatter(
                axes,
                some["finished_s"].fillna(frames.span[1]),
                some["end_to_end_s"],
                colour,
                marker,
                f"{name} ({len(some):,})",
            )
    done = jobs[jobs["finished"]]
    _quantile_lines(axes, measures.bucketed_quantiles(frames, done["finished_s"], done["end_to_end_s"]))
    _latency_axis(axes, jobs["end_to_end_s"])
    lag, share = measures.generator_lag(frames)
    caption = (
        f"n = {len(jobs):,} accepted jobs, each at the time it became final, unfinished ones at the "
        f"cutoff. Lines: p50 and p95 of finished jobs in buckets of {measures.bucket_seconds(frames):g} s. "
        f"The load generator sent {duration(lag)} late at p99, {percent(share)} of the end-to-end p99."
    )
    told = ", ".join(f"{count:,} {name}" for name, count in status.value_counts().items())
    return Chart(made, caption, f"End-to-end latency over time: {told}. {describe_faults(frames)}")


def _answered(frames: Frames, operations: pd.DataFrame) -> pd.Series[float]:
    return operations["completed_s"].fillna(frames.span[1])


def _scatter(axes: Axes, x: pd.Series[float], y: pd.Series[float], colour: str, marker: str, label: str) -> None:
    size, alpha = (9, 0.45) if marker == "o" else (26, 0.9)
    axes.scatter(x, y, size, c=colour, marker=marker, alpha=alpha, lw=0, label=label, zorder=2, clip_on=False)


def _quantile_lines(axes: Axes, table: pd.DataFrame) -> None:
    styles = {"p50": (0, ()), "p95": (0, (3, 1.2))}
    for name, style in styles.items():
        x, y = table["at_s"], table[name]
        axes.plot(x, y, color=INK, lw=1.2, ls=style, label=name, zorder=3, marker=".", ms=3)


def _latency_axis(axes: Axes, seconds: pd.Series[float]) -> None:
    low, high = (float(seconds.min()), float(seconds.max())) if len(seconds) else (1e-3, 1.0)
    axes.set_ylim(max(1e-5, low) / 1.6, high * 1.8)
    log_seconds(axes, "y")
    axes.set_ylabel("latency")
    legend_above(axes)


def _mark_quantiles(axes: Axes, table: pd.DataFrame) -> None:
    for row in table.to_dict("records"):
        low, high = (row[end] if np.isfinite(row[end]) else row["seconds"] for end in ("low", "high"))
        axes.plot([low, high], [row["q"]] * 2, color=INK, lw=4, alpha=0.35, solid_capstyle="butt", zorder=3)
        axes.plot(row["seconds"], row["q"], "o", color=INK, ms=4.5, zorder=4)
    axes.text(0.98, 0.05, _tell_quantiles(table, "\n"), transform=axes.transAxes, ha="right", linespacing=1.5)


def _survival(left: Axes, right: Axes, found: stats.Survival, colour: str, label: str) -> None:
    """The share finished and the share unfinished; a curve that ends above zero goes on to the last cut."""
    all_jobs = label == "all"
    times = np.concatenate((found.times[:1], found.times, [max(found.last, *found.times[-1:])]))
    surviving, low, high = (
        np.concatenate(([1.0], share, share[-1:])) for share in (found.surviving, found.low, found.high)
    )
    times = times[: surviving.size]
    left.step(times, 1 - surviving, where="post", color=colour, lw=2 if all_jobs else 1.2, label=label)
    right.step(times, surviving, where="post", color=colour, lw=2 if all_jobs else 1.2)
    if all_jobs:
        left.fill_between(times, 1 - high, 1 - low, step="post", color=colour, alpha=0.15, lw=0)
        right.fill_between(times, low, high, step="post", color=colour, alpha=0.15, lw=0)


def _finish_distribution(left: Axes, right: Axes, values: np.ndarray, n: int | None = None) -> None:
    for axes in (left, right):
        log_seconds(axes, "x")
        axes.set_xlim(float(values.min()) / 1.5, float(values.max()) * 1.8)
        axes.set_xlabel("latency")
    left.set(ylim=(0, 1.03), ylabel="share of jobs")
    left.yaxis.set_major_formatter(lambda value, _: percent(value))
    right.set(yscale="log", ylim=(0.7 / (n or values.size), 1.3), ylabel="share of jobs")
    right.yaxis.set_major_formatter(lambda value, _: percent(value))


def _tell_quantiles(table: pd.DataFrame, between: str = ", ") -> str:
    rows = table.to_dict("records")
    return between.join(f"p{row['q'] * 100:.0f} {bounded(row['seconds'], row['low'], row['high'])}" for row in rows)
