"""Many runs at a time: each lane is a process with servers of its own, which carries out one run after another.

The runs of one lane share its servers, each with a fresh database and an empty Redis, so none pays for starting them.
A lane that fails is started again; one whose parent is gone stops as at Ctrl-C.
"""

from __future__ import annotations

import os
import queue
import select
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGTERM

import msgspec
from rich.console import Console

from chaos.console import Progress
from chaos.errors import ChaosError
from chaos.experiment import carry_out
from chaos.planning import Options, resolve
from chaos.rack.python import python_path
from chaos.rack.servers import Servers
from chaos.record.runs import RUNS
from chaos.scenarios import find
from scheduler import SchedulerError
from scheduler.embedded import Child, Crew, Launch

STOP_SECONDS, TRIAL_SECONDS = 90.0, 900.0


class Trial(msgspec.Struct, frozen=True):
    """One run to carry out: a scenario's name and what differs from its defaults."""

    scenario: str
    seed: int = 1
    control: str | None = None
    pace: float = 0.4
    runs: str = str(RUNS)


class Ended(msgspec.Struct, frozen=True):
    """What became of a trial: its run folder and verdict, or why there is none."""

    trial: Trial
    verdict: str
    path: str | None = None
    error: str | None = None
    invalid: tuple[str, ...] = ()
    faults: int = 0


def carry_out_trial(trial: Trial, servers: Servers) -> Ended:
    """One run without a word. A failure of the harness is an outcome, not an exception."""
    options = Options(seed=trial.seed, control=trial.control, pace=trial.pace)
    try:
        plan = resolve(find(trial.scenario), options)
        with Progress(Console(quiet=True)) as silent:
            result = carry_out(plan, silent, servers, runs_dir=Path(trial.runs))
    except (ChaosError, SchedulerError, OSError) as error:
        return Ended(trial, "the harness failed", error=str(error))
    judgement = result.judgement
    invalid = tuple(check.name for check in judgement.checks if check.verdict == "invalid")
    return Ended(trial, judgement.verdict, str(result.folder.path), None, invalid, judgement.faults)


def serve() -> None:
    """The life of a lane: a trial a line on standard input, its end a line on standard output."""
    decode = msgspec.json.Decoder(Trial).decode
    with Servers() as servers:
        for line in sys.stdin.buffer:
            sys.stdout.buffer.write(msgspec.json.encode(carry_out_trial(decode(line), servers)) + b"\n")
            sys.stdout.buffer.flush()


def run_all(trials: Sequence[Trial], lanes: int, tell: Callable[[Ended], Sequence[Trial] | None]) -> None:
    """Carry out every trial; `tell` hears of each end, in this thread, and may return more to do.

    Ctrl-C ends the lanes in order: faults healed, children stopped.
    """
    wanted: queue.SimpleQueue[Trial | None] = queue.SimpleQueue()
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    left = len(trials)
    for trial in trials:
        wanted.put(trial)
    stopping = threading.Event()
    with Crew(STOP_SECONDS) as crew:
        keepers = [
            threading.Thread(target=_keep_lane, args=(crew, f"lane-{number}", wanted, ended, stopping))
            for number in range(min(lanes, left))
        ]
        for keeper in keepers:
            keeper.start()
        try:
            while left:
                one = ended.get()
                more = tell(one) or ()
                left += len(more) - 1
                for trial in more:
                    wanted.put(trial)
        except BaseException:
            stopping.set()  # first: a lane that is started after the signals is given no trial
            for lane in list(crew.children.values()):
                lane.signal(SIGTERM)
            raise
        finally:
            for _ in keepers:
                wanted.put(None)
            for keeper in keepers:
                keeper.join(STOP_SECONDS)


def _keep_lane(
    crew: Crew,
    name: str,
    wanted: queue.SimpleQueue[Trial | None],
    ended: queue.SimpleQueue[Ended],
    stopping: threading.Event,
) -> None:
    try:
        while not stopping.is_set():
            lane = crew.start(_launch(name))
            try:
                while not stopping.is_set() and (trial := wanted.get()) is not None:
                    one = _ask(lane, trial)
                    ended.put(one)
                    if one.path is None:
                        break  # whatever went wrong, the next run gets a fresh lane
                else:
                    return
            finally:
                _dismiss(lane)
    except OSError as error:  # no lane can be started: whoever waits for these ends must hear of it
        while (trial := wanted.get()) is not None:
            ended.put(Ended(trial, "the harness failed", error=f"no lane: {error}"))


def _launch(name: str) -> Launch:
    """A lane finds what we find, in our folder; when we are killed it is asked to stop, as at Ctrl-C."""
    environment = os.environ | {"PYTHONPATH": python_path()}
    words = [sys.executable, "-m", "chaos", "lane"]
    return Launch(name, words, environment=environment, folder=".", dies_by=SIGTERM, piped=True)


def _ask(lane: Child, trial: Trial) -> Ended:
    ask, answer = lane.process.stdin, lane.process.stdout
    assert ask is not None
    assert answer is not None
    try:
        ask.write(msgspec.json.encode(trial) + b"\n")
        ask.flush()
        if not select.select([answer], [], [], TRIAL_SECONDS)[0]:
            lane.signal(SIGTERM)
            return Ended(trial, "the harness failed", error=f"no end within {TRIAL_SECONDS:g} s; its lane was stopped")
        return msgspec.json.decode(answer.readline(), type=Ended)
    except (OSError, msgspec.DecodeError) as error:
        return Ended(trial, "the harness failed", error=f"its lane ended: {error}")


def _dismiss(lane: Child) -> None:
    """No more trials for it; it is waited for: it has faults to heal and children to stop."""
    try:
        lane.process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"a lane did not end within {STOP_SECONDS:g} s and was killed\n")
        lane.kill()  # what it started ends with it
        lane.process.communicate()
