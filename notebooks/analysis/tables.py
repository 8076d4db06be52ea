"""What a report says in words and tables: the headline, the checks, the faults, the facts of the run.

Each is a small value that shows itself as HTML in a notebook and as text elsewhere. The verdict is quoted
from `verdict.json`, never formed here.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from notebooks.analysis import measures
from notebooks.analysis.drawing import (
    INK,
    MUTED,
    VERDICTS,
    WIDTH_INCHES,
    Chart,
    duration,
    percent,
    styled,
)
from notebooks.analysis.frames import Frames


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a report: its HTML, and the same in plain words."""

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def headline(frames: Frames) -> Block:
    """What the run means in one sentence, and the numbers that sentence stands on."""
    verdict, sentence = frames.judgement.verdict, frames.judgement.sentence
    numbers = " · ".join(_numbers(frames))
    markup = (
        f'<div class="headline {verdict}"><p class="verdict">{verdict}</p>'
        f'<p class="sentence">{html.escape(sentence)}</p><p class="numbers">{html.escape(numbers)}</p></div>'
    )
    return Block(markup, f"{verdict.upper()}. {sentence} {numbers}")


def _numbers(frames: Frames) -> Iterable[str]:
    jobs = frames.jobs[frames.jobs["outcome"] == "ok"]
    yield f"{len(jobs):,} jobs accepted"
    for status, count in jobs["status"].where(jobs["finished"], "unfinished").value_counts().items():
        yield f"{count:,} {status}"
    yield f"{frames.record.fault_count} faults"
    yield f"{len(frames.orphans)} bodies cut off"
    yield f"{duration(frames.span[1] - frames.span[0])} from start to drained"


def bounds(frames: Frames) -> Block:
    """What the losses, or their absence, leave plausible: by fault, which is honest, and by job, which
    flatters.
    """
    found = measures.losses(frames)
    share = found.job_share
    if found.accepted == 0:
        told = "No job was accepted, so nothing is known about losses."
    elif found.unfinished:
        told = (
            f"{found.unfinished:,} of {found.accepted:,} accepted jobs were not final when the record "
            f"ended: {percent(share.point)} (95 % Wilson interval {percent(share.low)} to "
            f"{percent(share.high)})."
        )
    else:
        told = (
            f"0 of {found.accepted:,} accepted jobs stayed unfinished, over {found.faults} faults. Losses "
            "cluster in faults, so faults are what counts: the chance that one like these loses a job is "
            f"below {percent(found.fault_bound)} with 95 % confidence (1 - 0.05^(1/{found.faults}); 59 "
            "faults would bound it at 5 %). Counting jobs as if they were independent would flatter: below "
            f"{percent(share.high)}."
        )
    return Block(f"<p>{html.escape(told)}</p>", told)


def verdict_table(frames: Frames) -> Block:
    """Every check with its verdict, what it found and the first offenders."""
    rows = [
        [
            _badge(check.verdict),
            html.escape(check.name),
            html.escape(check.summary) + _examples(check.examples),
        ]
        for check in frames.judgement.checks
    ]
    text = "\n".join(f"{check.verdict:8} {check.name}: {check.summary}" for check in frames.judgement.checks)
    if not rows:
        return Block("<p>No check was made.</p>", "No check was made.")
    return Block(_table(["verdict", "check", "what it found"], rows), text)


def fault_table(frames: Frames) -> Block:
    """The faults as they were injected and healed, with the uncertainty of the onset."""
    rows = [
        [
            str(fault["number"]),
            html.escape(fault["label"]),
            f"{fault['onset_from_s']:.3f} s + {duration(fault['onset_to_s'] - fault['onset_from_s'])}",
            f"{fault['heal_to_s']:.3f} s" if fault["heal_to_s"] == fault["heal_to_s"] else "none needed or none seen",
            {"ok": "fired", "info": "unknown", "fail": "did not fire"}[fault["outcome"]],
        ]
        for fault in frames.faults.to_dict("records")
    ]
    if not rows:
        return Block("<p>No fault was injected.</p>", "No fault was injected.")
    head = ["#", "fault", "onset (called + call took)", "healed", "outcome"]
    return Block(_table(head, rows), "\n".join(", ".join(row) for row in rows))


def watermark(frames: Frames) -> Block:
    """Versions, settings and machine: what one needs to know to repeat or to doubt the numbers."""
    manifest = frames.manifest
    groups = {
        "versions": manifest.versions,
        "settings": {name: getattr(manifest.settings, name) for name in manifest.settings.__struct_fields__},
        "machine": manifest.machine,
        "run": {"name": manifest.run, "commit": manifest.commit, "started_at": manifest.started_at},
    }
    rows = [[name, html.escape(_pairs(values))] for name, values in groups.items()]
    return Block(_table(["", ""], rows, "facts"), "\n".join(f"{name}: {_pairs(v)}" for name, v in groups.items()))


def reproduce(frames: Frames) -> Block:
    """The command that makes the same plan again; what a property test made up is repeated by `chaos replay` alone."""
    manifest = frames.manifest
    settings = manifest.settings
    command = f"chaos run {manifest.scenario} --seed {manifest.seed} --jobs {settings.jobs}"
    command += f" --duration {settings.duration!r} --pace {settings.pace!r}"
    command += f" --control {settings.control}" if settings.control else ""
    return Block(f"<pre>{html.escape(command)}</pre>", command)


@styled
def verdict_figure(frames: Frames) -> Chart:
    """The checks as a picture, for slides and posts; the table says the same with examples."""
    checks = frames.judgement.checks
    figure = Figure(figsize=(WIDTH_INCHES, 0.85 + 0.3 * max(1, len(checks))))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 100), ylim=(len(checks) + 0.6, -2.2))
    axes.set_axis_off()
    verdict = frames.judgement.verdict
    axes.text(1, -1.3, verdict.upper(), color=VERDICTS[verdict], weight="bold", fontsize=13, va="center")
    title = f"{frames.manifest.scenario}, seed {frames.manifest.seed}"
    axes.text(99, -1.3, title, color=MUTED, ha="right", va="center")
    for row, check in enumerate(checks):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=MUTED, alpha=0.08, lw=0)
        axes.text(1, row, check.verdict, color=VERDICTS[check.verdict], weight="bold", va="center")
        axes.text(10, row, check.name, color=INK, va="center")
        axes.text(31, row, _short(check.summary), color=INK, va="center", fontsize=8.5)
    text = "; ".join(f"{check.name} {check.verdict}" for check in checks) or "no check was made"
    caption = f"n = {len(checks)} checks over {frames.judgement.jobs:,} jobs and {frames.judgement.faults} faults."
    return Chart(figure, caption, f"Verdict {verdict}: {text}.")


def _short(words: str, limit: int = 108) -> str:
    return words if len(words) <= limit else words[: limit - 1].rsplit(" ", 1)[0] + " …"


def _badge(verdict: str) -> str:
    return f'<span class="badge {verdict}">{verdict}</span>'


def _examples(examples: Sequence[Any]) -> str:
    if not examples:
        return ""
    shown = "\n".join(each if isinstance(each, str) else json.dumps(each, default=str) for each in examples)
    return f"<details><summary>{len(examples)} examples</summary><pre>{html.escape(shown)}</pre></details>"


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _table(head: list[str], rows: list[list[str]], kind: str = "checks") -> str:
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'
