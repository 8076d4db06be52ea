"""What every chart shares: the look, the colours of states and faults, the time axis with its fault lanes.

A `Chart` is a figure with its caption and its description in words. Nothing here reads a run or measures
anything.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from notebooks.analysis.frames import Frames

STYLE = Path(__file__).with_name("style.mplstyle")
WIDTH_INCHES = 9.6
LANE_INCHES = 0.21
MAX_LANES = 12

# Blue, orange and magenta stay apart for every common kind of colour blindness, and each has its own marker.
OK, INFO, FAIL, MUTED, INK = "#0072B2", "#E69F00", "#C2185B", "#6E7781", "#1F2328"
OUTCOMES = {"ok": (OK, "o"), "info": (INFO, "^"), "fail": (FAIL, "X")}
STATUSES = {
    "COMPLETED": (OK, "o"),
    "FAILED": (FAIL, "X"),
    "CANCELLED": (MUTED, "s"),
    "unfinished": (INFO, "^"),
}
EXECUTIONS = {"ok": OK, "error": FAIL, "cut": INK, "stale": "#7B3FA0"}
VERDICTS = {"valid": "#1A7F5A", "invalid": FAIL, "unknown": "#9A6700"}
TYPES = ("#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#8C6D1F", "#7B3FA0", "#4D4D4D")

# A family of faults has one colour in every report; kill, pause, partition and packet faults as in Jepsen.
FAULTS = {
    "kill": "#E9A4A0",
    "crash": "#E9A4A0",
    "block": "#A0B1E9",
    "overload": "#D1E8A0",
    "pause": "#A0B1E9",
    "partition": "#E9DCA0",
    "ack_lost": "#E8C9A0",
    "send_lost": "#E8C9A0",
    "reply_lost": "#E8C9A0",
    "torn_reply": "#E8C9A0",
    "refuse": "#D9B8E0",
    "reset": "#D9B8E0",
    "repoint": "#D9B8E0",
    "brownout": "#D1E8A0",
    "clock": "#A0E9E3",
    "flush": "#C9CDD2",
    "demote": "#E9DCA0",
    "redis-garbage": "#D8CBB8",
    "raise": "#A0B1E9",
    "overtime": "#A0B1E9",
    "failover": "#E9DCA0",
    "configure": "#A0E9E3",
    "key_held": "#D9B8E0",
}
OTHER_FAULT = "#D0D4D9"

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure that shows itself in a notebook, with its caption below and its alternative text."""

    figure: Figure
    caption: str
    alt: str

    def png(self) -> bytes:
        buffer = io.BytesIO()
        with matplotlib.style.context(STYLE):
            self.figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png()).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt, quote=True)}">'
        return f'<figure class="chart">{image}<figcaption>{html.escape(self.caption)}</figcaption></figure>'

    def __repr__(self) -> str:
        return self.alt


def styled(draw: Callable[P, Chart]) -> Callable[P, Chart]:
    """Draw within the one style, whatever the session around has set."""

    @wraps(draw)
    def within(*args: P.args, **kwargs: P.kwargs) -> Chart:
        with matplotlib.style.context(STYLE):
            return draw(*args, **kwargs)

    return within


def figure(height: float, rows: int = 1, columns: int = 1, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of notebook width with a grid of axes, row by row."""
    made = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **grid)
    return made, list(axes.flat)


def time_figure(frames: Frames, heights: Sequence[float], title: str) -> tuple[Figure, list[Axes]]:
    """Panels over one time axis: fault lanes and phases at the top, fault bands through every panel."""
    lanes = _lanes(frames)
    top = 0.42 + LANE_INCHES * max(1, len(set(lanes)))
    made = Figure(figsize=(WIDTH_INCHES, top + sum(heights) + 0.6), layout="constrained")
    made.get_layout_engine().set(h_pad=0.02, hspace=0.02)  # type: ignore[union-attr,call-arg]
    grid = made.add_gridspec(1 + len(heights), 1, height_ratios=[top, *heights])
    lane_axes = made.add_subplot(grid[0])
    panels = [made.add_subplot(grid[row + 1]) for row in range(len(heights))]
    for axes in (lane_axes, *panels):
        axes.set_xlim(*frames.span)
    _draw_lanes(lane_axes, frames, lanes)
    lane_axes.set_title(title, pad=8)
    for axes in panels:
        _draw_bands(axes, frames)
    for axes in panels[:-1]:
        axes.tick_params(labelbottom=False)
    panels[-1].set_xlabel("seconds since the run began")
    return made, panels


def fired(frames: Frames) -> pd.DataFrame:
    """The faults that did, or may have, happened."""
    return frames.faults[frames.faults["outcome"] != "fail"]


def fault_colour(family: str) -> str:
    return FAULTS.get(family, OTHER_FAULT)


def duration(seconds: float) -> str:
    """1.2 ms, 340 ms, 2.5 s: three significant digits at most."""
    if not np.isfinite(seconds):
        return "none"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def percent(share: float) -> str:
    """78 %, 0.383 %: three significant digits at most."""
    return "unknown" if np.isnan(share) else f"{share * 100:.3g} %"


def bounded(point: float, low: float, high: float) -> str:
    """A duration and its interval; an end that the sample does not bound is left open."""
    ends = [duration(end) if np.isfinite(end) else "?" for end in (low, high)]
    return f"{duration(point)} [{ends[0]}, {ends[1]}]"


def log_seconds(axes: Axes, which: str) -> None:
    """A logarithmic axis of durations, labelled in units people say."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(base=10, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: _between_decades(axis.get_view_interval(), value)))
    axis.set_tick_params(which="minor", labelsize=mpl.rcParams["xtick.labelsize"], pad=5)


def _between_decades(view: Sequence[float], value: float) -> str:
    """Labels at 2 and 5 where a decade or two fill the axis, none otherwise."""
    low, high = sorted(view)
    return duration(value) if high < low * 100 and f"{value:.0e}"[0] in "25" else ""


def legend_above(axes: Axes, columns: int = 6) -> None:
    """A legend on the line of the title, clear of the data."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=columns)


def say_nothing(axes: Axes, words: str, *, keep_x: bool = False) -> None:
    """An empty panel says why it is empty; a panel of a time figure keeps the common axis."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set_yticks([])
    axes.grid(visible=False)
    if not keep_x:
        axes.set_xticks([])


def describe_faults(frames: Frames) -> str:
    faults = fired(frames).to_dict("records")
    told = [f"{fault['label']} from {fault['onset_from_s']:.1f} to {fault['end_s']:.1f} s" for fault in faults]
    return f"Faults: {'; '.join(told)}." if told else "No fault."


def _lanes(frames: Frames) -> list[int]:
    """A lane for each fault, the lowest that is free for the bar and its label."""
    free_at: list[float] = []
    lanes = []
    for fault in fired(frames).to_dict("records"):
        lane = next((number for number, free in enumerate(free_at) if free <= fault["onset_from_s"]), len(free_at))
        lane = min(lane, MAX_LANES - 1)
        inside = _fits(frames, fault)
        free_at[lane : lane + 1] = [fault["end_s"] + (0.0 if inside else _label_seconds(frames, fault))]
        lanes.append(lane)
    return lanes


def _label_seconds(frames: Frames, fault: Mapping[Any, Any]) -> float:
    """About how much of the time axis the label takes."""
    return (frames.span[1] - frames.span[0]) * (len(fault["label"]) + 2) / 155


def _fits(frames: Frames, fault: Mapping[Any, Any]) -> bool:
    return bool(fault["end_s"] - fault["onset_from_s"] >= _label_seconds(frames, fault))


def _draw_lanes(axes: Axes, frames: Frames, lanes: list[int]) -> None:
    start, end = frames.span
    height = max([*lanes, 0]) + 1
    axes.set_ylim(height + 0.1, -1.35)
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for fault, lane in zip(fired(frames).to_dict("records"), lanes, strict=True):
        _draw_lane(axes, frames, fault, lane + 0.5)
    if not lanes:
        axes.text(start, 0.5, "no fault", va="center", fontsize=8, color=MUTED)
    for phase in frames.phases[frames.phases["name"] != "judge"].to_dict("records"):
        axes.plot([phase["start_s"]] * 2, [-1.2, height], color=MUTED, lw=0.7, ls=(0, (2, 2)), clip_on=False)
        if phase["end_s"] - phase["start_s"] > (end - start) * 0.03:
            at = phase["start_s"] + (end - start) * 0.003
            axes.text(at, -0.72, phase["name"], fontsize=8, color=MUTED, va="center")


def _draw_lane(axes: Axes, frames: Frames, fault: Mapping[Any, Any], y: float) -> None:
    start, end = frames.span
    gap = (end - start) * 0.004
    begin, width = fault["onset_from_s"], max(gap, fault["end_s"] - fault["onset_from_s"])
    axes.barh(y, width, 0.82, left=begin, color=fault_colour(fault["family"]), align="center")
    if _fits(frames, fault):
        x, side = begin + gap, "left"
    elif begin + width + _label_seconds(frames, fault) > end:
        x, side = begin - gap, "right"
    else:
        x, side = begin + width + gap, "left"
    blank = {"facecolor": "none" if _fits(frames, fault) else "white", "edgecolor": "none", "pad": 1.0}
    axes.text(x, y, fault["label"], ha=side, va="center", fontsize=8, clip_on=False, bbox=blank)


def _draw_bands(axes: Axes, frames: Frames) -> None:
    least = (frames.span[1] - frames.span[0]) * 0.002
    for fault in fired(frames).to_dict("records"):
        colour = fault_colour(fault["family"])
        until = max(fault["end_s"], fault["onset_from_s"] + least)
        axes.axvspan(fault["onset_from_s"], until, color=colour, alpha=0.38, lw=0, zorder=0.4)
        axes.axvline(fault["onset_to_s"], color=colour, lw=1.1, zorder=0.5)
    for start in frames.phases[frames.phases["name"] != "judge"]["start_s"]:
        axes.axvline(start, color=MUTED, lw=0.7, ls=(0, (2, 2)), alpha=0.7, zorder=0.5)
