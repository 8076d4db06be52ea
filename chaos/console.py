"""What a person sees: live progress of a run, and tables of scenarios, checks and controls. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from chaos.history import Planned, Sample
from chaos.scenario import Scenario
from chaos.verdict import Check, Judgement, Verdict

if TYPE_CHECKING:  # these stand on this module
    from chaos.controls import Control
    from chaos.lanes import Ended
    from chaos.model.variants import Explored
    from chaos.proof import Controls

COLOURS: dict[Verdict, str] = {"valid": "green", "unknown": "yellow", "invalid": "red"}
NAMED = 10
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
        self._phase = name
        self._say(f"[bold]{name}[/bold] {detail}".rstrip())

    def fault(self, planned: Planned, *, active: bool) -> None:
        name = f"{planned.fault} {planned.target}"
        if active:
            self._active[name] = time.monotonic()
            self._say(f"[red]✗[/red] {name}")
        else:
            self._active.pop(name, None)
            self._say(f"[green]✓[/green] {name} healed")

    def trouble(self, message: str) -> None:
        self._say(f"[yellow]! {message}[/yellow]")

    def sample(self, sample: Sample, *, finished: int, jobs: int) -> None:
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


def scenario_table(scenarios: Iterable[Scenario]) -> Table:
    table = Table("scenario", "the promise under attack", "faults", "about")
    for scenario in scenarios:
        schedule = scenario.schedule(1, scenario.seconds)
        faults = ", ".join(dict.fromkeys(f"{p.fault} {p.target}" for p in schedule)) or "none"
        table.add_row(scenario.name, scenario.claim, faults, f"{scenario.seconds + 20:.0f} s")
    return table


class Count:
    """Progress of a series of runs: a bar in a terminal, elsewhere one line for each end."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done, self._began = console, total, 0, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("runs", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def ended(self, ended: Ended, *, more: int = 0) -> None:
        """One is done, and so many have come up in its wake."""
        self._done, self._total = self._done + 1, self._total + more
        self._bar.update(self._task, completed=self._done, total=self._total)
        build = ended.trial.control or "healthy"
        found = ended.error or ", ".join(ended.invalid) or f"{ended.faults} faults"
        place = f"{time.monotonic() - self._began:6.0f} s  {self._done}/{self._total}"
        line = f"{place}  {ended.trial.scenario} seed {ended.trial.seed}, {build}: {ended.verdict} ({found})"
        self._console.print(line, style=_style(ended.verdict), highlight=False, markup=False, soft_wrap=True)


def _style(verdict: str) -> str:
    return {"valid": "green", "unknown": "yellow", "invalid": "magenta"}.get(verdict, "red")


def trial_table(ends: Iterable[Ended]) -> Table:
    """A line for each run."""
    table = Table("scenario", "seed", "faults", "verdict", "invalid checks")
    for each in sorted(ends, key=lambda one: (one.trial.scenario, one.trial.seed)):
        verdict = Text(each.verdict, style=_style(each.verdict))
        found = each.error or ", ".join(each.invalid)
        table.add_row(each.trial.scenario, str(each.trial.seed), str(each.faults), verdict, Text(found))
    return table


def control_list(controls: Iterable[Control]) -> Table:
    table = Table("build", "what it breaks", "on", "scenario", "must be invalid")
    for each in controls:
        table.add_row(each.name, each.does, each.on, each.scenario, ", ".join(each.breaks) or "nothing")
    return table


def control_table(series: Controls) -> Group:
    """What became of every control, every harmless fault, and of the healthy build under the same schedules."""
    table = Table("build", "what it breaks", "scenario", "must be invalid", "result", title="controls")
    for each in series.tried.values():
        control, style = each.control, "green" if each.as_expected else "red"
        wanted = ", ".join(control.breaks) if not each.is_harmless else "nothing is lost"
        table.add_row(control.name, control.does, control.scenario, wanted, Text(each.result, style=style))
    whole = Table("scenario", "seeds", "faults", "verdicts", title="the healthy build under the same schedules")
    for scenario, ends in _by_scenario(series.healthy).items():
        verdicts = Text(", ".join(f"{e.verdict}{_why(e)}" for e in ends))
        verdicts.stylize("green" if all(e.verdict == "valid" for e in ends) else "red")
        whole.add_row(scenario, ", ".join(str(e.trial.seed) for e in ends), str(sum(e.faults for e in ends)), verdicts)
    return Group(table, whole)


def model_table(rows: Iterable[Explored]) -> Table:
    """What the explorer found of the protocol and of each variant."""
    table = Table("protocol", "faults", "attempts", "states", "found", title="the model")
    for each in rows:
        case = each.case
        given = ", ".join(f"{n} {fault}" for fault, n in case.faults._asdict().items() if n) or "none"
        found = f"breaks {each.violated} in {each.steps} steps" if each.violated else "holds"
        text = Text(found, style="green" if each.as_expected else "red")
        table.add_row(case.name, given, str(case.max_attempts), f"{each.states:,}", text)
    return table


def _by_scenario(ends: Iterable[Ended]) -> dict[str, list[Ended]]:
    found: dict[str, list[Ended]] = {}
    for ended in ends:
        found.setdefault(ended.trial.scenario, []).append(ended)
    return dict(sorted(found.items()))


def _why(ended: Ended) -> str:
    why = ended.error or ", ".join(ended.invalid)
    return f" ({why})" if why else ""
