"""Many runs at a time: each lane is a process with servers of its own, which carries out one run after another.

The runs of one lane share its servers, each with a fresh database and an empty Redis, so none pays for starting them.
A lane that fails is started again; one whose parent is gone ends after its run.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from chaos.console import Progress
from chaos.errors import ChaosError
from chaos.experiment import carry_out
from chaos.planning import Options, resolve
from chaos.rack.servers import Servers
from chaos.record.runs import RUNS
from chaos.scenarios import find
from scheduler import SchedulerError

ROOT = Path(__file__).parent.parent.parent
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
    crew = [threading.Thread(target=_keep_lane, args=(wanted, ended, stopping)) for _ in range(min(lanes, left))]
    for thread in crew:
        thread.start()
    try:
        while left:
            one = ended.get()
            more = tell(one) or ()
            left += len(more) - 1
            for trial in more:
                wanted.put(trial)
    except BaseException:
        stopping.set()
        raise
    finally:
        for _ in crew:
            wanted.put(None)
        for thread in crew:
            thread.join(STOP_SECONDS)


def _keep_lane(
    wanted: queue.SimpleQueue[Trial | None], ended: queue.SimpleQueue[Ended], stopping: threading.Event
) -> None:
    try:
        while not stopping.is_set():
            with _lane(stopping) as lane:
                while (trial := wanted.get()) is not None:
                    one = _ask(lane, trial)
                    ended.put(one)
                    if one.path is None:
                        break  # whatever went wrong, the next run gets a fresh lane
                else:
                    return
    except OSError as error:  # no lane can be started: whoever waits for these ends must hear of it
        while (trial := wanted.get()) is not None:
            ended.put(Ended(trial, "the harness failed", error=f"no lane: {error}"))


def _ask(lane: subprocess.Popen[bytes], trial: Trial) -> Ended:
    assert lane.stdin is not None
    assert lane.stdout is not None
    try:
        lane.stdin.write(msgspec.json.encode(trial) + b"\n")
        lane.stdin.flush()
        if not select.select([lane.stdout], [], [], TRIAL_SECONDS)[0]:
            lane.terminate()
            return Ended(trial, "the harness failed", error=f"no end within {TRIAL_SECONDS:g} s; its lane was stopped")
        return msgspec.json.decode(lane.stdout.readline(), type=Ended)
    except (OSError, msgspec.DecodeError) as error:
        return Ended(trial, "the harness failed", error=f"its lane ended: {error}")


@contextmanager
def _lane(stopping: threading.Event) -> Iterator[subprocess.Popen[bytes]]:
    """The process; interrupted when the whole is, and waited for: it has faults to heal and children to stop."""
    lane = subprocess.Popen(
        [sys.executable, "-m", "chaos", "lane"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])},
        start_new_session=True,  # Ctrl-C reaches the parent alone, which passes it on
    )
    done = threading.Event()
    watch = threading.Thread(target=_pass_on, args=(lane, stopping, done))
    watch.start()
    try:
        yield lane
    finally:
        done.set()
        watch.join()
        try:
            lane.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write(f"a lane did not end within {STOP_SECONDS:g} s and was killed\n")
            lane.kill()  # what it started ends with it
            lane.communicate()


def _pass_on(lane: subprocess.Popen[bytes], stopping: threading.Event, done: threading.Event) -> None:
    while not done.wait(0.1):
        if stopping.is_set() and lane.poll() is None:
            lane.send_signal(signal.SIGTERM)
            return
