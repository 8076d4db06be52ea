"""The command line: `chaos …` or `python -m chaos …`.

Exit codes: 0 every check valid, 1 a check is invalid, 2 wrong usage,
3 unknown (the run proved nothing), 4 the harness failed, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer
from rich.console import Console

from chaos.errors import ChaosError, UsageError
from chaos.record.verdict import Verdict, compose
from scheduler import SchedulerError

if TYPE_CHECKING:  # a command loads what it needs, so that `--help` is quick
    from chaos.record.plan import Plan
    from chaos.series.lanes import Ended, Trial

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()

EXIT: dict[Verdict, int] = {"valid": 0, "invalid": 1, "unknown": 3}
HARNESS_FAILED = 4
INTERRUPTED = 130

Seed = Annotated[int, typer.Option(help="Decides jobs, times and faults")]
Jobs = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="How many jobs; default: the scenario's")]
Duration = Annotated[float | None, typer.Option(min=1, help="Seconds of faults; default: the scenario's")]
Pace = Annotated[float, typer.Option(min=0.2, max=1.0, help="Multiplies every time, lease and back-off too")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where run folders are made")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/latest")]
Lanes = Annotated[int, typer.Option(min=1, max=8, help="Runs at a time, each on servers of its own")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="Port on loopback")]
RUNS = Path("runs")


@app.command("list")
def list_scenarios() -> None:
    """Name the scenarios and the promise that each attacks."""
    from chaos.scenarios import SCENARIOS
    from chaos.series.tables import scenario_table

    out.print(scenario_table(SCENARIOS.values()))


@app.command()
def run(
    name: Annotated[str | None, typer.Argument(help="A scenario, see `chaos list`")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, one after the other")] = False,
    seed: Seed = 1,
    jobs: Jobs = None,
    duration: Duration = None,
    control: Annotated[str | None, typer.Option(help="A broken build, see `chaos controls --list`")] = None,
    pace: Pace = 1.0,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Carry out a scenario on a stack of its own, and judge it."""
    from chaos.planning import Options, resolve
    from chaos.scenarios import SCENARIOS, find

    if every == (name is not None):
        raise UsageError("name one scenario, or pass --all")
    names = list(SCENARIOS) if name is None else [name]
    options = Options(seed=seed, jobs=jobs, seconds=duration, control=control, pace=pace)
    verdicts = [_judged(resolve(find(each), options), runs_dir) for each in names]
    raise typer.Exit(EXIT[compose(verdicts)])


@app.command()
def random(seed: Seed = 1, jobs: Jobs = None, duration: Duration = None, runs_dir: RunsDir = RUNS) -> None:
    """Faults chosen at random; the same seed chooses the same."""
    from chaos.planning import Options, resolve
    from chaos.scenarios import find

    plan = resolve(find("random"), Options(seed=seed, jobs=jobs, seconds=duration))
    raise typer.Exit(EXIT[_judged(plan, runs_dir)])


@app.command()
def replay(folder: RunFolder, runs_dir: RunsDir = RUNS) -> None:
    """Repeat a run from its folder: same jobs, settings, schedule and control."""
    from chaos.record.runs import load_manifest

    raise typer.Exit(EXIT[_judged(load_manifest(folder).plan, runs_dir)])


@app.command()
def controls(
    names: Annotated[list[str] | None, typer.Argument(help="Which; none: all")] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Only name them")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Write what came of them to docs/guarantees.yaml")] = False,
    seed: Seed = 1,
    lanes: Lanes = 2,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Run every deliberately broken build: its checks must turn invalid, and the healthy build must be valid.

    Each control has a bounded number of seeded runs to be caught in; the healthy build is run at the same schedules.
    Faults that the design outlives are run too and must lose nothing. Exit 0 when all is as it should be, else 1.
    """
    from chaos.controls.control import every, find
    from chaos.series import register
    from chaos.series.campaign import Controls
    from chaos.series.tables import control_list, control_table

    chosen = [find(name) for name in names or every()]
    if only_list:
        out.print(control_list(chosen))
        return
    series = Controls(chosen, first_seed=seed, runs_dir=str(runs_dir))
    _in_lanes(series.trials(), lanes, series.hear)
    out.print(control_table(series))
    if keep:
        register.save(register.with_results(register.load(), [], list(series.tried.values())))
    raise typer.Exit(0 if series.as_expected else 1)


@app.command()
def points(
    match: Annotated[str, typer.Argument(help="Only scenarios whose name holds this")] = "",
    seed: Seed = 1,
    lanes: Lanes = 2,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Kill, stop or cut off a process at every crash point, in a stack of one worker and in one of two.

    Exit 0 when every run is valid, 1 when a check is invalid, 3 when a run proved nothing, 4 when the harness failed.
    """
    from chaos.scenarios import POINTS
    from chaos.series.lanes import Trial
    from chaos.series.tables import trial_table

    ends: list[Ended] = []
    trials = [Trial(name, seed, runs=str(runs_dir)) for name in POINTS if match in name]
    if not trials:
        raise UsageError(f"no crash point holds {match!r} in its name; there are {', '.join(POINTS)}")
    _in_lanes(trials, lanes, ends.append)
    out.print(trial_table(ends))
    raise typer.Exit(_exit_code(ends))


@app.command()
def model(
    deep: Annotated[bool, typer.Option("--deep", help="Larger bounds too, two minutes more")] = False,
) -> None:
    """Explore the protocol state by state: it must hold, and each of its rules must be missed when it is left out.

    Exit 0 when it is so, else 1. See docs/protocol.md.
    """
    from chaos.model import report
    from chaos.series.tables import model_table

    with out.status("exploring"):
        rows = report(deep=deep)
    out.print(model_table(rows))
    raise typer.Exit(0 if all(row.as_expected for row in rows) else 1)


@app.command()
def prove(
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="Seeds for each scenario")] = 15,
    only: Annotated[str, typer.Option(help="Only scenarios whose name holds this; write nothing")] = "",
    promise: Annotated[
        list[str] | None, typer.Option(help="Only this promise and its controls; may be repeated")
    ] = None,
    seed: Seed = 1,
    lanes: Lanes = 2,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Attack every promise many times, run every control; write docs/guarantees.yaml and the tables made from it.

    About forty minutes. Exit 0 when every run is valid and every control caught; what was found is written either way.
    """
    from chaos.series import register
    from chaos.series.campaign import Campaign
    from chaos.series.tables import control_table, trial_table

    claims = register.load()
    part = claims.only(promise) if promise else claims
    controls = sorted({name for claim in part.promises for name in claim.controls}) if promise else None
    series = Campaign(
        part.attacks, rounds=rounds, only=only, first_seed=seed, runs_dir=str(runs_dir), controls=controls
    )
    _in_lanes(series.trials(), lanes, series.hear)
    series.compare()
    out.print(trial_table(series.troubled) if series.troubled else f"{len(series.ended)} runs, all valid")
    if not only:
        out.print(control_table(series.controls))
        tried = list(series.controls.tried.values())
        found = register.with_part(claims, part, series.folders, tried) if promise else None
        register.save(found or register.with_results(claims, series.folders, tried))
    raise typer.Exit(0 if series.as_expected else 1)


@app.command(hidden=True)
def lane() -> None:
    """Carry out the trials that come in on standard input; see chaos/series/lanes.py."""
    from chaos.series.lanes import serve

    serve()


@app.command()
def report(folder: RunFolder) -> None:
    """Execute the report notebook on a run; prints where the HTML is."""
    out.print(str(_report(folder)), soft_wrap=True, highlight=False)


@app.command()
def verdict(folder: RunFolder) -> None:
    """Judge a recorded run again, by its scenario's own checks too, and print the table."""
    from chaos.console import verdict_table
    from chaos.judge import judge
    from chaos.record.runs import load_run
    from chaos.scenarios import find

    recorded = load_run(folder)
    judgement = judge(recorded, find(recorded.manifest.scenario).promises)
    out.print(verdict_table(judgement, recorded.manifest.run))
    raise typer.Exit(EXIT[judgement.verdict])


@app.command()
def demo(seed: Seed = 1, jobs: Jobs = None, runs_dir: RunsDir = RUNS) -> None:
    """1,000 jobs from Locust, one worker killed, Redis cut for 5 s; judged, with a report."""
    from chaos.planning import Options, resolve
    from chaos.scenarios import find
    from scheduler.embedded import is_free

    plan = resolve(find("demo"), Options(seed=seed, jobs=jobs))
    found = _judged(plan, runs_dir, api_port=3000 if is_free(3000) else 0)
    with out.status("executing the report notebook"):
        page = _report(runs_dir / "latest")
    out.print(f"report: {page}", soft_wrap=True, highlight=False)
    raise typer.Exit(EXIT[found])


@app.command()
def bench(
    jobs: Annotated[int, typer.Option(min=1_000, help="Jobs a repetition")] = 100_000,
    repeats: Annotated[int, typer.Option(min=1, max=50)] = 5,
    against: Annotated[Path | None, typer.Option(help="The root of another source tree, measured in turn")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON")] = False,
) -> None:
    """Measure drain and end-to-end rates beside the bare stores' own limits, and beside another build's."""
    from chaos.bench.bench import run_bench, table

    found = run_bench(jobs, repeats, against, out)
    if as_json:
        out.print_json(msgspec.json.encode(found).decode())
    else:
        out.print(table(found))


@app.command()
def up(
    lab: Annotated[bool, typer.Option("--lab", help="JupyterLab on the notebooks too")] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes")] = 2,
    data_dir: Annotated[Path, typer.Option(envvar="SCHEDULER_DATA_DIR", help="Kept between starts")] = Path(".data"),
    api_port: Port = 3000,
    toxiproxy_port: Port = 8474,
    locust_port: Port = 8089,
    lab_port: Port = 8888,
) -> None:
    """Everything at its usual address until Ctrl-C: API 3000, Locust 8089, Toxiproxy 8474."""
    from chaos.rack.up import Ports, keep_up

    keep_up(workers, Ports(api_port, toxiproxy_port, locust_port, lab_port), data_dir, lab=lab, console=out)


def _judged(plan: Plan, runs_dir: Path, *, api_port: int = 0) -> Verdict:
    """Carry out, print the table, and say where the run is."""
    from chaos.console import Progress, verdict_table
    from chaos.experiment import carry_out

    try:
        with Progress(out) as progress:
            result = carry_out(plan, progress, runs_dir=runs_dir, api_port=api_port)
    except KeyboardInterrupt:
        out.print("interrupted; every fault is healed and every process stopped")
        raise typer.Exit(INTERRUPTED) from None
    path = result.folder.path
    out.print(verdict_table(result.judgement, path.name))
    out.print(f"run: {path}   report: chaos report {path}", soft_wrap=True)
    return result.judgement.verdict


def _in_lanes(trials: list[Trial], lanes: int, hear: Callable[[Ended], list[Trial] | None]) -> None:
    """Carry out all of them, telling of each end as it comes."""
    from chaos.series.lanes import run_all
    from chaos.series.tables import Count

    try:
        with Count(out, len(trials)) as count:

            def tell(ended: Ended) -> list[Trial]:
                more = hear(ended) or []
                count.ended(ended, more=len(more))
                return more

            run_all(trials, lanes, tell)
    except KeyboardInterrupt:
        out.print("interrupted; every fault is healed and every process stopped")
        raise typer.Exit(INTERRUPTED) from None


def _exit_code(ends: list[Ended]) -> int:
    """As of one run; what has no verdict at all is a failure of the harness."""
    if any(each.path is None for each in ends):
        return HARNESS_FAILED
    return EXIT[compose([cast("Verdict", each.verdict) for each in ends])]


def _report(folder: Path) -> Path:
    try:
        from chaos.report import render
    except ImportError as error:
        raise ChaosError(
            f"the report needs more packages ({error}); pip install 'compact-job-scheduler[harness]'"
        ) from error
    return render(folder)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """SIGTERM and a closed terminal end a run as Ctrl-C does: faults are healed and every child is stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        app()
    except* UsageError as group:
        _fail(group, 2)
    except* (ChaosError, SchedulerError) as group:
        _fail(group, HARNESS_FAILED)
    except* Exception as group:  # an exit code of 1 would say that a promise is broken
        traceback.print_exception(group)
        sys.exit(HARNESS_FAILED)


def _fail(error: BaseException, code: int) -> None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    Console(stderr=True).print(f"chaos: {error}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
