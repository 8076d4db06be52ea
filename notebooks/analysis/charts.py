"""The charts of throughput, backlog, retries and recovery. Each says n, intervals and definitions.

A chart takes the tables of a run and returns a `Chart`; its description in words carries the same numbers
for whoever cannot see it. The job timeline has a file of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from notebooks.analysis import measures, stats
from notebooks.analysis.drawing import (
    FAIL,
    INFO,
    INK,
    MUTED,
    OK,
    STATUSES,
    TYPES,
    Chart,
    bounded,
    describe_faults,
    duration,
    fault_colour,
    figure,
    legend_above,
    log_seconds,
    say_nothing,
    styled,
    time_figure,
)
from notebooks.analysis.frames import Frames


@styled
def throughput(frames: Frames) -> Chart:
    """Accepted and finished jobs a second."""
    accepted = measures.rate(frames, frames.jobs["accepted_s"])
    finished = measures.rate(frames, frames.jobs["finished_s"])
    refused = frames.submits[frames.submits["outcome"] != "ok"]
    made, (axes,) = time_figure(frames, [2.4], "Throughput")
    axes.stairs(finished["per_second"], _edges(finished), color=OK, fill=True, alpha=0.22)
    axes.stairs(finished["per_second"], _edges(finished), color=OK, lw=1.6, label="finished")
    axes.stairs(accepted["per_second"], _edges(accepted), color=INK, lw=1.3, label="accepted")
    if len(refused):
        rest = measures.rate(frames, refused["completed_s"])
        axes.stairs(rest["per_second"], _edges(rest), color=INFO, lw=1.3, label="not accepted (fail, info)")
    axes.set_ylabel("jobs per second")
    axes.set_ylim(bottom=0)
    legend_above(axes)
    width = measures.bucket_seconds(frames)
    peak = finished.sort_values("per_second").iloc[-1]
    idle = (finished["per_second"] == 0) & (accepted["per_second"] > 0)
    told = (
        f"{int(frames.jobs['finished'].sum()):,} jobs finished, at most {peak['per_second']:g} a second (at "
        f"{peak['at_s']:.0f} s); none finished in {int(idle.sum())} of the buckets in which some were "
        "accepted"
    )
    return Chart(made, f"Counts in buckets of {width:g} s. {told}.", f"Throughput: {told}. {describe_faults(frames)}")


@styled
def backlog(frames: Frames) -> Chart:
    """What waited where: PostgreSQL's unfinished jobs and Redis's stream, pending entries, retries, dead
    letters.
    """
    panels: Sequence[tuple[str, Mapping[str, str]]] = (
        ("jobs\nin PostgreSQL", {"unfinished": INK, "processing": OK}),
        ("entries\nin the stream", {"stream": INK, "pending": OK}),
        ("waiting\nretries", {"retry": TYPES[0]}),
        ("dead\nletters", {"dlq": FAIL}),
    )
    made, all_axes = time_figure(frames, [1.5, 1.25, 0.95, 0.95], "Backlog")
    samples = frames.samples
    for axes, (title, columns) in zip(all_axes, panels, strict=True):
        if samples[list(columns)].isna().all(axis=None):
            say_nothing(axes, "never sampled", keep_x=True)
            axes.set_ylabel(title)
            continue
        _shade_gaps(axes, samples, next(iter(columns)))
        for column, colour in columns.items():
            axes.plot(samples["at_s"], samples[column], color=colour, drawstyle="steps-post", label=column)
            axes.fill_between(samples["at_s"], samples[column], step="post", color=colour, alpha=0.12, lw=0)
        axes.set_ylabel(title)
        axes.set_ylim(0, max(1.0, float(samples[list(columns)].max().max()) * 1.08) if len(samples) else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        if len(columns) > 1:
            axes.legend(loc="upper right", ncols=2)
    return Chart(made, *_backlog_words(frames))


def _backlog_words(frames: Frames) -> tuple[str, str]:
    samples = frames.samples
    if samples.empty:
        return "The stores were never sampled.", "Backlog: the stores were never sampled."
    peaks = {column: samples[column].max() for column in ("unfinished", "stream", "pending", "retry", "dlq")}
    told = ", ".join(f"{column} {0 if np.isnan(peak) else int(peak):,}" for column, peak in peaks.items())
    gaps = int(samples["stream"].isna().sum() + samples["unfinished"].isna().sum())
    caption = (
        f"n = {len(samples):,} samples, straight from the stores. Highest: {told}. Hatched: a store was "
        f"out of the sampler's reach ({gaps} readings)."
    )
    return caption, f"Backlog: highest {told}. {describe_faults(frames)}"


@styled
def retries(frames: Frames) -> Chart:
    """How many attempts jobs took, and how observed retry delays compare with the promise."""
    made, (left, right) = figure(3.4, 1, 2, width_ratios=[1, 1.25])
    jobs = frames.jobs[frames.jobs["outcome"] == "ok"].dropna(subset="attempt")
    _attempt_bars(left, jobs)
    delays = measures.retry_delays(frames)
    told = _delay_strips(right, delays)
    early = int((delays["late_s"] < 0).sum())
    base = frames.manifest.settings.backoff_base_seconds
    caption = (
        f"Left: n = {len(jobs):,} jobs by their last attempt, log scale. Right: n = {len(delays):,} "
        "retries after a failed attempt, from the end of the failed body to the next start, both from the "
        f"bodies' own ledger; bars are the promises ({base:g} s, doubling). Started early: {early}. {told}"
    )
    return Chart(made, caption.strip(), f"Retries: {len(delays):,}, of which {early} started early. {told}".strip())


def _attempt_bars(axes: Axes, jobs: pd.DataFrame) -> None:
    axes.set_title("Attempts a job took")
    if jobs.empty:
        say_nothing(axes, "no job was accepted")
        return
    axes.grid(visible=False, axis="x")
    status = jobs["status"].where(jobs["finished"], "unfinished")
    counts = pd.crosstab(jobs["attempt"].astype(int), status)
    beside = (counts > 0).cumsum(axis=1) - ((counts > 0).sum(axis=1).to_numpy()[:, None] + 1) / 2
    for name in (each for each in STATUSES if each in counts):
        there = counts[name] > 0
        x = counts.index[there] + beside[name][there] * 0.34
        bars = axes.bar(x, counts[name][there], 0.32, color=STATUSES[name][0], label=name)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
    axes.set(yscale="log", ylabel="jobs", xlabel="attempts")
    axes.set_ylim(0.7, max(10.0, float(counts.to_numpy().max(initial=1)) * 2.4))
    axes.set_xticks(sorted(set(counts.index)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="upper right")


def _delay_strips(axes: Axes, delays: pd.DataFrame) -> str:
    axes.set_title("Retry delay, observed against promised")
    if delays.empty:
        say_nothing(axes, "no failed attempt was retried")
        return ""
    rng = np.random.default_rng(1)
    told = []
    for number, group in delays.groupby("retry"):
        retry = int(str(number))
        x = retry + rng.uniform(-0.26, 0.26, len(group))
        early = group["late_s"] < 0
        axes.scatter(x[~early], group["observed_s"][~early], s=11, color=OK, alpha=0.55, lw=0)
        axes.scatter(x[early], group["observed_s"][early], s=26, color=FAIL, marker="X", lw=0)
        promise = float(group["promised_s"].iloc[0])
        axes.plot([retry - 0.36, retry + 0.36], [promise] * 2, color=INK, lw=1.8, solid_capstyle="butt")
        axes.text(retry + 0.38, promise, f"{promise:g} s", va="center", fontsize=8.5)
        late = stats.quantile_interval(group["late_s"], 0.5)
        told.append(f"retry {retry}: {bounded(late.point, late.low, late.high)} late (n = {len(group):,})")
    axes.set(yscale="log", xlabel="retry", ylabel="delay")
    axes.yaxis.set_major_formatter(lambda value, _: duration(value))
    axes.yaxis.set_minor_formatter(lambda value, _: duration(value) if str(f"{value:e}")[0] in "25" else "")
    axes.tick_params(axis="y", which="minor", labelsize=8.5)
    axes.set_xticks(sorted(set(delays["retry"])))
    axes.set_xlim(0.5, delays["retry"].max() + 0.75)
    return f"Median lateness with {measures.INTERVALS}: {'; '.join(told)}."


@styled
def recovery(frames: Frames) -> Chart:
    """How long work stood still: orphans of dead workers, and what came first after a healing."""
    orphans, resumed = frames.orphans, measures.resumption(frames)
    rows = max(1, orphans[["fault", "target", "at_s"]].drop_duplicates().shape[0], len(resumed))
    made, (left, right) = figure(1.5 + 0.42 * rows, 1, 2)
    told = [_orphan_strips(left, frames), _resumption_dots(right, resumed)]
    if len(resumed):
        made.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    promise = frames.manifest.settings.lease_seconds + 1
    caption = (
        f"Left: n = {len(orphans):,} jobs whose body was cut off by the death or freeze of its worker, "
        f"each dot one job, from the fault to its next start; the promise is lease + 1 s = {promise:g} s, "
        "open dots queued behind a backlog. Right: from the healing to the first event of each kind. "
        f"{' '.join(filter(None, told))}"
    )
    return Chart(made, caption, f"Recovery. {' '.join(filter(None, told)) or 'Nothing was cut off or healed.'}")


def _orphan_strips(axes: Axes, frames: Frames) -> str:
    axes.set_title("Death or freeze → restart of its jobs")
    orphans = frames.orphans
    if orphans.empty:
        say_nothing(axes, "no job body was cut off")
        return ""
    promise = frames.manifest.settings.lease_seconds + 1
    rng, told, labels = np.random.default_rng(1), [], []
    for row, ((fault, target, at_s), group) in enumerate(orphans.groupby(["fault", "target", "at_s"], sort=False)):
        y = row + rng.uniform(-0.18, 0.18, len(group))
        for mask, inside, edge, marker in (
            (group["restarted"] & ~group["queued"], OK, OK, "o"),
            (group["restarted"] & group["queued"], "none", OK, "o"),
            (~group["restarted"], INFO, INFO, ">"),
        ):
            dots = group["seconds"][mask], y[mask]
            axes.scatter(*dots, s=26, alpha=0.85, zorder=3, facecolor=inside, edgecolor=edge, marker=marker)
        found = stats.quantile_interval(group["seconds"], 0.5)
        first = float(group["seconds"].min())
        axes.plot(first, row, marker="D", color=INK, ms=6, zorder=4, ls="none")
        axes.annotate(duration(first), (first, row), (0, 14), textcoords="offset points", ha="center")
        labels.append(f"{fault} {target}\n at {float(str(at_s)):.1f} s")
        told.append(
            f"{fault} {target}: first restart after {duration(first)}, median "
            f"{bounded(found.point, found.low, found.high)}, n = {len(group):,}."
        )
    axes.axvline(promise, color=FAIL, lw=1.3, ls=(0, (4, 2)))
    axes.text(promise, -0.62, f" lease + 1 s = {promise:g} s ", color=FAIL, fontsize=8, ha="right", va="center")
    axes.set_xlim(0, max(promise, float(orphans["seconds"].max())) * 1.06)
    _rows(axes, labels)
    axes.set_xlabel("seconds (diamond: the first)")
    return " ".join(told)


def _resumption_dots(axes: Axes, resumed: pd.DataFrame) -> str:
    axes.set_title("Healed → work goes on")
    kinds = {
        "first_accept_s": ("first accepted submit", INFO, "s"),
        "first_start_s": ("first job body", OK, "o"),
        "backlog_s": ("backlog as before", INK, "D"),
    }
    if resumed.empty:
        say_nothing(axes, "no fault was healed")
        return ""
    told = []
    for row, fault in enumerate(resumed.to_dict("records")):
        axes.barh(row, 1, 0.62, transform=axes.get_yaxis_transform(), color=fault_colour(fault["family"]), alpha=0.3)
        said = []
        for column, (name, _, _) in kinds.items():
            said.append(f"{name} {duration(fault[column])}")
        told.append(f"{fault['label']}: {', '.join(said)}.")
    for column, (name, colour, marker) in kinds.items():
        axes.plot(resumed[column].clip(lower=1e-3), range(len(resumed)), marker, color=colour, label=name, ms=6)
    log_seconds(axes, "x")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 1.6, high * 1.6)
    _rows(axes, list(resumed["label"]))
    axes.set_xlabel("time since the healing")
    return f"After the healing of {' '.join(told)}"


def _rows(axes: Axes, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.85)
    axes.grid(visible=False, axis="y")


def _edges(rate: pd.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    at = rate["at_s"].to_numpy(dtype=np.float64)
    width = at[1] - at[0] if at.size > 1 else 1.0
    return np.append(at, at[-1] + width)


def _shade_gaps(axes: Axes, samples: pd.DataFrame, column: str) -> None:
    missing = samples[column].isna()
    step = float(samples["at_s"].diff().median()) if len(samples) > 1 else 0.25
    for at in samples["at_s"][missing]:
        axes.axvspan(at, at + step, facecolor="none", edgecolor=MUTED, hatch="////", alpha=0.6, lw=0)
