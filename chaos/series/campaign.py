"""The series of runs that prove something together: every control, every crash point, every promise many times.

A series plans trials, hears of each end, and sums up; `lanes` carries them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from chaos.controls.control import Control, every
from chaos.scenarios import POINTS, SCENARIOS, UNLISTED
from chaos.series.lanes import Ended, Trial


@dataclass
class Tried:
    """What became of one control: in which seed each of its checks turned invalid first."""

    control: Control
    caught: dict[str, int] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    strays: set[str] = field(default_factory=set)
    faults: int = 0

    @property
    def is_harmless(self) -> bool:
        """Whether it must lose nothing, instead of being caught."""
        return self.control.is_harmless

    @property
    def missed(self) -> list[str]:
        """The checks that were to turn invalid and have not yet."""
        return [] if self.is_harmless else [check for check in self.control.breaks if check not in self.caught]

    @property
    def as_expected(self) -> bool:
        """A control was caught by each of its checks; a harmless fault broke nothing that it may not."""
        return not (self.missed or self.troubles) if not self.is_harmless else not (self.strays or self.troubles)

    @property
    def result(self) -> str:
        """What came of it, in words."""
        if self.is_harmless:
            broken = f"; {', '.join(sorted(self.caught))} invalid, as expected" if self.caught else ""
            lost = f"broke {', '.join(sorted(self.strays))}" if self.strays else f"lost nothing{broken}"
            return "; ".join([lost, *self.troubles])
        if self.missed:
            return "; ".join([f"NOT caught by {', '.join(self.missed)}", *self.troubles])
        return f"caught in {max(self.caught.values(), default=0)} of at most {self.control.runs} runs"

    def hear(self, ended: Ended) -> None:
        """Take the end of one of its runs into account."""
        seed = ended.trial.seed
        self.seeds.append(seed)
        self.faults += ended.faults
        if ended.path is None or (self.is_harmless and ended.verdict == "unknown"):
            self.troubles.append(f"seed {seed}: {ended.error or ended.verdict}")
        for check in ended.invalid:
            self.caught.setdefault(check, len(self.seeds))
            if self.is_harmless and check not in self.control.breaks:
                self.strays.add(check)


class Controls:
    """Each control at one seed after another until it is caught; then the healthy build at the very same ones."""

    def __init__(self, chosen: Sequence[Control], *, first_seed: int, runs_dir: str) -> None:
        self.tried = {control.name: Tried(control) for control in chosen}
        self.healthy: list[Ended] = []
        self._first, self._runs_dir = first_seed, runs_dir
        self.shown: set[Trial] = set()  # what the healthy build has to face too

    def trials(self) -> list[Trial]:
        """What to begin with: the first seed of each."""
        return [self._trial(tried, self._first) for tried in self.tried.values()]

    def hear(self, ended: Ended) -> list[Trial]:
        """What is to be done next: the next seed, or the healthy build where nothing has shown it yet."""
        if ended.trial.control is None:
            self.healthy.append(ended)
            return []
        tried = self.tried[ended.trial.control]
        tried.hear(ended)
        again = tried.missed or tried.is_harmless
        more = [self._trial(tried, ended.trial.seed + 1)] if again and len(tried.seeds) < tried.control.runs else []
        whole = msgspec.structs.replace(ended.trial, control=None)
        if whole not in self.shown:
            self.shown.add(whole)
            more.append(whole)
        return more

    @property
    def as_expected(self) -> bool:
        """Whether each was caught or harmless, and the healthy build valid."""
        return all(each.as_expected for each in self.tried.values()) and all(e.verdict == "valid" for e in self.healthy)

    def _trial(self, tried: Tried, seed: int) -> Trial:
        control = tried.control
        return Trial(control.scenario, seed, control.name, runs=self._runs_dir)


class Campaign:
    """Every scenario that a promise names, at many seeds; every crash point, once a round of seeds; every control."""

    def __init__(
        self,
        attacks: Callable[[str], bool],
        *,
        rounds: int,
        only: str,
        first_seed: int,
        runs_dir: str,
        controls: Sequence[str] | None = None,
    ) -> None:
        names = list(every()) if controls is None else controls
        chosen = [] if only else [every()[name] for name in names]
        self.controls = Controls(chosen, first_seed=first_seed, runs_dir=runs_dir)
        self.ended: list[Ended] = []
        seeds = range(first_seed, first_seed + rounds)
        named = [name for name in SCENARIOS | UNLISTED if attacks(name) and only in name]
        self._own = [
            Trial(name, seed, runs=runs_dir) for name in named for seed in (seeds[:1] if name in POINTS else seeds)
        ]

    def trials(self) -> list[Trial]:
        """Every run that is known beforehand."""
        return [*self._own, *self.controls.trials()]

    def hear(self, ended: Ended) -> list[Trial]:
        """What is to be done next."""
        if ended.trial in self._own:
            self.ended.append(ended)
            return []
        return [each for each in self.controls.hear(ended) if each not in self._own]

    def compare(self) -> None:
        """The healthy build at a control's schedule may be among the campaign's own runs; it counts for both."""
        self.controls.healthy += [each for each in self.ended if each.trial in self.controls.shown]

    @property
    def folders(self) -> list[str]:
        """The runs that count: what has a verdict. An unknown one proved nothing, and is left out."""
        return [each.path for each in self.ended if each.path and each.verdict != "unknown"]

    @property
    def troubled(self) -> list[Ended]:
        """The runs that were not valid."""
        return [each for each in self.ended if each.verdict != "valid"]

    @property
    def as_expected(self) -> bool:
        """Whether every promise held, and every control was caught. Runs that proved nothing count for neither."""
        return all(each.verdict in {"valid", "unknown"} for each in self.ended) and self.controls.as_expected
