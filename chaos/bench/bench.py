"""The benchmark: every measure in turn, again and again, so that a slow phase of the machine meets them alike.

Quote its ratios: each is taken within one repetition, and the median of several is shown with their spread.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from chaos.bench.bare import bare_postgres, bare_redis
from chaos.bench.rates import BATCH, Build, payload_text
from chaos.errors import UsageError
from chaos.rack.servers import Servers

BARE, BARE_REDIS, DRAIN, END_TO_END = "bare PostgreSQL", "bare Redis", "drain", "end to end"
RECONCILE, PRUNE = "reconcile", "prune"
OURS, OTHER = "", "other "
MEANING = (
    "bare PostgreSQL: insert, claim, complete on one connection; bare Redis: publish, read, ack; drain: one worker "
    f"empties a queue that was full; end to end: over HTTP, one worker, both in batches of {BATCH}; reconcile: back "
    "into an empty Redis, one worker; prune: out of the table, two workers"
)


class Rates(msgspec.Struct, frozen=True):
    """Jobs per second of one measure, one value a repetition; `yardstick` is the measure that it is held against."""

    measure: str
    rates: list[float]
    yardstick: str

    @property
    def median(self) -> float:
        """Jobs per second."""
        return median(self.rates)


class Report(msgspec.Struct, frozen=True):
    """What `--json` prints."""

    jobs: int
    repeats: int
    machine: str
    measures: list[Rates]

    def ratios(self, measure: Rates) -> list[float]:
        """The measure over its yardstick, repetition by repetition."""
        [against] = [each for each in self.measures if each.measure == measure.yardstick]
        return [mine / other for mine, other in zip(measure.rates, against.rates, strict=True)]


def run_bench(jobs: int, repeats: int, against: Path | None, console: Console) -> Report:
    """Measure on embedded stores in temporary folders. Raises UsageError for a tree that holds no scheduler."""
    if against is not None and not (against / "scheduler" / "__main__.py").is_file():
        raise UsageError(f"{against} holds no scheduler/__main__.py; name the root of a source tree")
    with ExitStack() as ended:
        measures = _measures(ended, jobs, against)
        rates: dict[str, list[float]] = {name: [] for name in measures}
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            work = progress.add_task("measuring", total=repeats * len(measures))
            for number in range(repeats):
                for name in list(measures)[:: -1 if number % 2 else 1]:  # whoever is second has warmer caches
                    progress.update(work, description=name)
                    rates[name].append(measures[name]())
                    progress.advance(work)
    found = [Rates(name, values, _yardstick(name, against)) for name, values in rates.items()]
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.machine()}"
    return Report(jobs, repeats, machine, found)


def _measures(ended: ExitStack, jobs: int, against: Path | None) -> dict[str, Callable[[], float]]:
    own = ended.enter_context(Servers(toxiproxy_port=None))
    builds = {OURS: Build("this build", own)}
    if against is not None:
        builds[OTHER] = Build("the other", ended.enter_context(Servers(toxiproxy_port=None)), against)
    found: dict[str, Callable[[], float]] = {
        BARE: lambda: bare_postgres(own.stores.postgres.url, jobs, BATCH, payload_text()),
        BARE_REDIS: lambda: bare_redis(own.stores.redis.url, jobs, BATCH),
    }
    for prefix, build in builds.items():
        found[prefix + DRAIN] = lambda build=build: build.drain(jobs)  # type: ignore[misc]
        found[prefix + END_TO_END] = lambda build=build: build.end_to_end(jobs)  # type: ignore[misc]
        found[prefix + RECONCILE] = lambda build=build: build.reconcile(jobs)  # type: ignore[misc]
        found[prefix + PRUNE] = lambda build=build: build.prune(jobs)  # type: ignore[misc]
    return found


def _yardstick(name: str, against: Path | None) -> str:
    """The other build's same measure, where there is another build; else the bare store."""
    return OTHER + name if against is not None and name in {DRAIN, END_TO_END, RECONCILE, PRUNE} else BARE


def table(report: Report) -> Table:
    """Medians with their spread, and each measure as a share of its yardstick."""
    found = Table("measure", "jobs/s", "min – max", "beside", "ratio", "min – max")
    for each in report.measures:
        ratios = report.ratios(each)
        spread = f"{min(each.rates):,.0f} – {max(each.rates):,.0f}"
        found.add_row(
            each.measure,
            f"{each.median:,.0f}",
            spread,
            each.yardstick,
            f"{median(ratios):.2f}",
            f"{min(ratios):.2f} – {max(ratios):.2f}",
        )
    found.title = f"{report.jobs:,} jobs that do nothing, medians of {report.repeats}"
    found.caption = f"{MEANING}. {report.machine}; every guarantee on"
    return found
