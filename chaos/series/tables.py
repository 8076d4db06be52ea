"""What a person sees of many runs: the progress of a series, and tables of scenarios, trials, controls, the model."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from chaos.controls.control import Control
from chaos.model import Explored
from chaos.scenarios.scenario import Scenario
from chaos.series.campaign import Controls
from chaos.series.lanes import Ended


class Count:
    """Progress of a series of runs: a bar in a terminal, elsewhere one line for each end."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done, self._began = console, total, 0, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
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


def scenario_table(scenarios: Iterable[Scenario]) -> Table:
    """Name, claim, faults and length of each, at full pace."""
    table = Table("scenario", "the promise under attack", "faults", "about")
    for scenario in scenarios:
        seconds = scenario.settings.duration
        schedule = scenario.schedule(1, seconds)
        faults = ", ".join(dict.fromkeys(f"{p.fault} {p.target}" for p in schedule)) or "none"
        table.add_row(scenario.name, scenario.claim, faults, f"{seconds + 20:.0f} s")
    return table


def trial_table(ends: Iterable[Ended]) -> Table:
    """A line for each run."""
    table = Table("scenario", "seed", "faults", "verdict", "invalid checks")
    for each in sorted(ends, key=lambda one: (one.trial.scenario, one.trial.seed)):
        verdict = Text(each.verdict, style=_style(each.verdict))
        found = each.error or ", ".join(each.invalid)
        table.add_row(each.trial.scenario, str(each.trial.seed), str(each.faults), verdict, Text(found))
    return table


def control_list(controls: Iterable[Control]) -> Table:
    """A line for each control: what it breaks, where, and what must catch it."""
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
