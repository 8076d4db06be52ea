"""What a person sees of one run: its live progress, and the table of its checks. Decides nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chaos.record.history import Sample
from chaos.record.plan import Planned
from chaos.record.verdict import Check, Judgement, Verdict

COLOURS: dict[Verdict, str] = {"valid": "green", "unknown": "yellow", "invalid": "red"}
NAMED = 10  # ids in a line, before the rest is a number
PHASES = ("start", "steady", "inject", "heal", "drain", "judge")


class Progress:
    """Live in a terminal; elsewhere one line for each phase and fault."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=True) if console.is_terminal else None
        self._began = time.monotonic()
        self._phase = "start"
        self._sample = Sample(0)
        self._finished, self._jobs = 0, 1
        self._active: dict[str, float] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def phase(self, name: str, detail: str = "") -> None:
        """A phase of the run begins."""
        self._phase = name
        self._say(f"[bold]{name}[/bold] {detail}".rstrip())

    def fault(self, planned: Planned, *, active: bool) -> None:
        """A fault has set in, or is healed."""
        name = f"{planned.fault} {planned.target}"
        if active:
            self._active[name] = time.monotonic()
            self._say(f"[red]✗[/red] {name}")
        else:
            self._active.pop(name, None)
            self._say(f"[green]✓[/green] {name} healed")

    def trouble(self, message: str) -> None:
        """Something failed in the harness itself."""
        self._say(f"[yellow]! {message}[/yellow]")

    def sample(self, sample: Sample, *, finished: int, jobs: int) -> None:
        """What the stores look like just now."""
        self._sample, self._finished, self._jobs = sample, finished, max(jobs, 1)
        if self._live:
            self._live.update(self._picture())

    def _say(self, markup: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._began:6.1f} s[/dim]  {markup}", highlight=False)

    def _picture(self) -> Group:
        phases = Text("  ").join(
            Text(name, style="bold cyan reverse" if name == self._phase else "dim") for name in PHASES
        )
        now = time.monotonic()
        faults = [f"{name} {now - since:.1f} s" for name, since in self._active.items()]
        figures = Table.grid(padding=(0, 2))
        figures.add_row(
            ProgressBar(total=self._jobs, completed=min(self._finished, self._jobs), width=30),
            f"{self._finished:,} of {self._jobs:,} jobs final",
            *(f"{name} {_figure(getattr(self._sample, name))}" for name in ("unfinished", "stream", "retry", "dlq")),
            f"workers {_figure(self._sample.workers)}",
        )
        return Group(phases, figures, Text("  ".join(faults) or "no fault is active", style="red" if faults else "dim"))


def _figure(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def verdict_table(judgement: Judgement, title: str) -> Group:
    """Every check with its verdict, what it found, and the first offender of those that failed."""
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("check")
    table.add_column("verdict")
    table.add_column("what was found", overflow="fold")
    for check in judgement.checks:
        table.add_row(check.name, _coloured(check.verdict), _found(check))
    line = Text(judgement.verdict.upper(), style=f"bold {COLOURS[judgement.verdict]}")
    return Group(table, Text.assemble(line, "  ", judgement.sentence))


def _found(check: Check) -> Text:
    found = Text(check.summary)
    if check.verdict == "invalid":
        for example in check.examples[:3]:
            found.append(f"\n  {_example(example)}", style="dim")
        if lost := check.details.get("lost"):
            found.append(f"\nlost: {_named(lost)}", style="red")
    return found


def _named(ids: list[str]) -> str:
    """All of them when they are few; all are in verdict.json anyway."""
    more = len(ids) - NAMED
    return ", ".join(ids[:NAMED]) + (f" and {more} more, all in verdict.json" if more > 0 else "")


def _example(example: object) -> str:
    if isinstance(example, dict):
        return ", ".join(f"{key} {value}" for key, value in example.items() if value is not None)
    return str(example)


def _coloured(verdict: Verdict) -> Text:
    return Text(verdict, style=COLOURS[verdict])
