"""The command line: `chaos …` or `python -m chaos …`.

Exit codes: 0 every check valid, 1 a check is invalid, 2 wrong usage, 3 unknown (the run proved nothing), 4 the harness
failed; 130 after
Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from chaos.errors import ChaosError, UsageError
from chaos.verdict import Verdict, compose
from scheduler import SchedulerError

if TYPE_CHECKING:  # a command loads what it needs, so that `--help` is quick
    from chaos.controls import Control
    from chaos.runner import Options

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
out = Console()

EXIT: dict[Verdict, int] = {"valid": 0, "invalid": 1, "unknown": 3}
HARNESS_FAILED = 4
CAUGHT = "caught"
INTERRUPTED = 130

Seed = Annotated[int, typer.Option(help="Decides jobs, times and faults")]
Jobs = Annotated[int | None, typer.Option(min=1, max=1_000_000, help="How many jobs; default: the scenario's")]
Duration = Annotated[float | None, typer.Option(min=1, help="Seconds of faults; default: the scenario's")]
RunsDir = Annotated[Path, typer.Option("--runs-dir", help="Where run folders are made")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/latest")]
Port = Annotated[int, typer.Option(min=1, max=65_535, help="Port on loopback")]
RUNS = Path("runs")


@app.command("list")
def list_scenarios() -> None:
    """Name the scenarios and the promise that each attacks."""
    from chaos.console import scenario_table
    from chaos.scenarios import SCENARIOS

    out.print(scenario_table(SCENARIOS.values()))


@app.command()
def run(
    name: Annotated[str | None, typer.Argument(help="A scenario, see `chaos list`")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them, one after the other")] = False,
    seed: Seed = 1,
    jobs: Jobs = None,
    duration: Duration = None,
    control: Annotated[str | None, typer.Option(help="A broken build, see `chaos controls --list`")] = None,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Carry out a scenario on a stack of its own, and judge it."""
    from chaos.scenarios import SCENARIOS, find

    if every == (name is not None):
        raise UsageError("name one scenario, or pass --all")
    names = list(SCENARIOS) if name is None else [find(name).name]
    verdicts = [_carry_out(each, seed, jobs, duration, control, runs_dir) for each in names]
    raise typer.Exit(EXIT[compose(verdicts)])


@app.command()
def random(seed: Seed = 1, jobs: Jobs = None, duration: Duration = None, runs_dir: RunsDir = RUNS) -> None:
    """Faults drawn by lot; the same seed draws the same."""
    raise typer.Exit(EXIT[_carry_out("random", seed, jobs, duration, None, runs_dir)])


@app.command()
def replay(folder: RunFolder, runs_dir: RunsDir = RUNS) -> None:
    """Repeat a run from its folder: same jobs, same schedule, same control."""
    from chaos.runner import Options
    from chaos.runs import load_run

    manifest = load_run(folder).manifest
    settings = manifest.settings
    options = Options(
        seed=manifest.seed,
        jobs=settings.jobs,
        seconds=settings.duration,
        schedule=manifest.schedule,
        runs=runs_dir,
    )
    raise typer.Exit(EXIT[_judged(manifest.scenario, options, settings.control)])


@app.command()
def controls(
    names: Annotated[list[str] | None, typer.Argument(help="Which; none: all")] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Only name them")] = False,
    seed: Seed = 1,
    runs_dir: RunsDir = RUNS,
) -> None:
    """Run every deliberately broken build: its checks must turn invalid, and the healthy build must be valid.

    Exit 0 when all are caught and the healthy build is valid in each of their scenarios, else 1.
    """
    from chaos.controls import CONTROLS, find
    from chaos.runner import Options

    chosen = [find(name) for name in names or CONTROLS]
    table = Table("build", "what it breaks", "scenario", "must be invalid", "result")
    wrong = 0
    for scenario in [] if only_list else dict.fromkeys(control.scenario for control in chosen):
        result = _result(scenario, Options(seed=seed, runs=runs_dir), None)
        wrong += result != "valid"
        table.add_row("healthy", "nothing", scenario, "nothing", _good(result) if result == "valid" else _bad(result))
    for control in chosen:
        result = "–" if only_list else _caught(control, Options(seed=seed, runs=runs_dir))
        wrong += result not in {"–", CAUGHT}
        shown = result if only_list else _good(result) if result == CAUGHT else _bad(result)
        table.add_row(control.name, control.does, control.scenario, ", ".join(control.breaks), shown)
    out.print(table)
    raise typer.Exit(1 if wrong else 0)


@app.command()
def report(folder: RunFolder) -> None:
    """Execute the report notebook on a run; prints where the HTML is."""
    out.print(str(_report(folder)), soft_wrap=True, highlight=False)


@app.command()
def verdict(folder: RunFolder) -> None:
    """Judge a recorded run again and print the table."""
    from chaos.checks import judge
    from chaos.console import verdict_table
    from chaos.runs import load_run

    recorded = load_run(folder)
    judgement = judge(recorded)
    out.print(verdict_table(judgement, recorded.manifest.run))
    raise typer.Exit(EXIT[judgement.verdict])


@app.command()
def demo(seed: Seed = 1, jobs: Jobs = None, runs_dir: RunsDir = RUNS) -> None:
    """1,000 jobs from Locust, one worker killed, Redis cut for 5 s; judged, with a report."""
    from chaos.runner import Options
    from scheduler.embedded.process import is_free

    port = 3000 if is_free(3000) else 0
    found = _judged("demo", Options(seed=seed, jobs=jobs, runs=runs_dir, api_port=port), None)
    with out.status("executing the report notebook"):
        page = _report(runs_dir / "latest")
    out.print(f"report: {page}", soft_wrap=True, highlight=False)
    raise typer.Exit(EXIT[found])


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
    from chaos.up import Ports, keep_up

    keep_up(workers, Ports(api_port, toxiproxy_port, locust_port, lab_port), data_dir, lab=lab, console=out)


def _carry_out(
    name: str, seed: int, jobs: int | None, duration: float | None, control: str | None, runs_dir: Path
) -> Verdict:
    from chaos.runner import Options

    return _judged(name, Options(seed=seed, jobs=jobs, seconds=duration, runs=runs_dir), control)


def _judged(name: str, options: Options, control: str | None) -> Verdict:
    """Carry out, print the table, and say where the run is."""
    from chaos.console import Progress, verdict_table
    from chaos.controls import find as find_control
    from chaos.runner import carry_out
    from chaos.scenarios import find

    scenario = find(name)
    if control:
        broken = find_control(control)
        options = replace(options, control=control, control_on=broken.on)
        scenario = replace(scenario, drain_seconds=broken.drain_seconds)
    try:
        with Progress(out) as progress:
            result = carry_out(scenario, options, progress)
    except KeyboardInterrupt:
        out.print("interrupted; every fault is healed and every process stopped")
        raise typer.Exit(INTERRUPTED) from None
    path = result.folder.path
    out.print(verdict_table(result.judgement, path.name))
    out.print(f"run: {path}   report: chaos report {path}", soft_wrap=True)
    return result.judgement.verdict


def _result(name: str, options: Options, control: str | None) -> str:
    """The verdict, or why there is none: one failure of the harness does not end a series."""
    try:
        return _judged(name, options, control)
    except (ChaosError, SchedulerError) as error:
        out.print(f"the harness failed: {error}", style="yellow", markup=False, highlight=False)
        return "the harness failed"


def _caught(control: Control, options: Options) -> str:
    """`caught`, or what was not."""
    from chaos.runs import load_judgement

    result = _result(control.scenario, options, control.name)
    if result not in EXIT:
        return result
    checks = load_judgement(options.runs / "latest").checks
    invalid = {check.name for check in checks if check.verdict == "invalid"}
    missed = [check for check in control.breaks if check not in invalid]
    return f"not caught by {', '.join(missed)}" if missed else CAUGHT


def _good(text: str) -> str:
    return f"[green]{text}[/green]"


def _bad(text: str) -> str:
    return f"[red]{text}[/red]"


def _report(folder: Path) -> Path:
    try:
        from notebooks.analysis.report import render
    except ImportError as error:
        raise ChaosError(
            f"the report needs the notebooks and their packages ({error}); run from a checkout, "
            "with pip install -e '.[harness]'"
        ) from error
    return Path(render(folder))


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
    except* Exception:  # an exit code of 1 would say that a promise is broken
        Console(stderr=True).print_exception()
        sys.exit(HARNESS_FAILED)


def _fail(error: BaseException, code: int) -> None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    Console(stderr=True).print(f"chaos: {error}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
