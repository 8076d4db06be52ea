"""Every chart on every sort of run: it draws, says n, describes itself, and keeps the one time axis."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from notebooks.analysis import charts, drawing, latency, tables, timeline
from notebooks.analysis.drawing import Chart
from notebooks.analysis.frames import Frames, load
from tests.notebooks.test_frames import told
from tests.stories import Story

Draw = Callable[[Frames], Chart]
OVER_TIME: list[Draw] = [
    latency.submit_latency_over_time,
    latency.end_to_end_latency_over_time,
    charts.throughput,
    charts.backlog,
    timeline.timeline,
]
ALL: list[Draw] = [
    *OVER_TIME,
    latency.submit_latency,
    latency.end_to_end_latency,
    charts.retries,
    charts.recovery,
    tables.verdict_figure,
]


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("run", ["sound", "lossy"])
def test_a_chart_is_a_picture_with_a_caption_and_words(draw: Draw, run: str, request: pytest.FixtureRequest) -> None:
    chart = draw(request.getfixturevalue(run))
    picture = imread(io.BytesIO(chart.png()))
    assert picture.shape[1] > 1200
    assert float(np.std(picture[:, :, :3])) > 0.02
    assert "n = " in chart.caption or "buckets of" in chart.caption
    assert len(chart.alt) > 40
    assert f'alt="{chart.alt[:20]}' in chart._repr_html_()


@pytest.mark.parametrize("draw", ALL, ids=lambda draw: draw.__name__)
def test_a_chart_of_a_run_that_hardly_began_says_so_instead_of_failing(draw: Draw, tmp_path: Path) -> None:
    assert draw(told(Story().submit("j", told=None), tmp_path)).png()


@pytest.mark.parametrize("draw", OVER_TIME, ids=lambda draw: draw.__name__)
def test_charts_over_time_share_one_axis_and_show_every_fault(draw: Draw, sound: Frames) -> None:
    axes = draw(sound).figure.get_axes()
    assert {panel.get_xlim() for panel in axes} == {sound.span}
    words = [text.get_text() for text in axes[0].texts]
    assert {"kill worker-1", "partition.hold worker-redis", "steady", "inject", "heal", "drain"} <= set(words)
    assert axes[-1].get_xlabel() == "seconds since the run began"


def test_faults_at_the_same_time_get_lanes_of_their_own_at_most_twelve(tmp_path: Path) -> None:
    story = Story()
    for number in range(20):
        story.fault("pause", f"worker-{number + 1}", at=1.0 + number / 100)
    assert drawing._lanes(told(story, tmp_path)) == [*range(12), *[11] * 8]


def test_the_timeline_draws_what_something_happened_to_first(sound: Frames) -> None:
    chosen = timeline.interesting_jobs(sound)
    assert len(chosen) == 200
    assert set(sound.orphans["job_id"]) <= set(chosen[:4])
    retried = sound.executions[sound.executions["attempt"] > 1]["job_id"]
    assert set(retried) <= set(chosen)


def test_a_small_run_is_drawn_whole(tmp_path: Path) -> None:
    assert timeline.interesting_jobs(told(Story().submit("j"), tmp_path)) == ["j"]


def test_the_colours_of_outcomes_stay_apart_without_red_and_green() -> None:
    """Simulated deuteranopia (Machado 2009, severity 1): the three outcomes differ clearly."""
    simulate = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    )
    seen = [
        simulate @ np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        for colour, _ in drawing.OUTCOMES.values()
    ]
    assert min(float(np.linalg.norm(a - b)) for i, a in enumerate(seen) for b in seen[:i]) > 0.3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0000123, "12.3 µs"), (0.0046, "4.6 ms"), (0.99996, "1 s"), (12.34, "12.3 s"), (float("nan"), "none")],
)
def test_durations_are_said_with_three_digits_at_most(seconds: float, words: str) -> None:
    assert drawing.duration(seconds) == words


def test_the_verdict_table_names_the_lost_jobs(lossy: Frames) -> None:
    markup = tables.verdict_table(lossy)._repr_html_()
    lost = lossy.jobs[~lossy.jobs["finished"]]["job_id"]
    assert any(job_id in markup for job_id in lost)
    assert 'class="badge invalid"' in markup


def test_text_of_a_run_cannot_break_the_page(folder: Path) -> None:
    path = folder / "verdict.json"
    path.write_text(path.read_text().replace("every process lived", "<script>alert(1)</script>"))
    assert "<script>" not in tables.verdict_table(load(folder))._repr_html_()
