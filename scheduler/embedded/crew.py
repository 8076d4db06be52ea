"""A crew of child processes: started, tended, awaited, ended in order. Knows nothing of what they do.

Whoever starts processes that live on beside it does so here, so that all of them die with it, none outlives an
exception or Ctrl-C, and one that keeps dying is started again ever more slowly.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from scheduler.embedded.process import ChildFailed, end, ending, kill_group, launch, until

FIRST_WAIT, LONGEST_WAIT, HEALTHY_SECONDS = 0.2, 10.0, 10.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run, and how; the fields from `log` to `piped` are those of `launch`.

    `stops_by` asks it to end. `order`: of two children the one with the lower is ended first, equal ones together.
    """

    name: str
    words: Sequence[str]
    log: Path | None = None
    environment: Mapping[str, str] | None = None
    folder: str | Path = "/"
    dies_by: signal.Signals = signal.SIGKILL
    piped: bool = False
    stops_by: signal.Signals = signal.SIGTERM
    order: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """A process of its own. Raises OSError when none can be made."""
        return launch(
            self.words,
            log=self.log,
            dies_by=self.dies_by,
            environment=self.environment,
            folder=self.folder,
            piped=self.piped,
        )


@dataclass(slots=True)
class Child:
    """A process of a crew, and after a restart the one in its place.

    `doomed`: its death is wanted, and no news. `wait_seconds` lie between its last death and its next start.
    """

    launch: Launch
    process: subprocess.Popen[bytes]
    doomed: bool = False
    wait_seconds: float = FIRST_WAIT
    started_at: float = field(default_factory=time.monotonic)
    start_at: float = 0.0
    told: bool = False  # its death was

    @property
    def name(self) -> str:
        return self.launch.name

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """None while it lives; -N when signal N ended it."""
        return self.process.poll()

    @property
    def state(self) -> str:
        """One letter: T is stopped, R running, S asleep, Z ended; empty when it is gone."""
        if (stat := Path(f"/proc/{self.pid}/stat")).exists():
            return stat.read_text().rpartition(")")[2].split()[0]
        listing = ["ps", "-o", "state=", "-p", str(self.pid)]
        return subprocess.run(listing, capture_output=True, text=True, timeout=10, check=False).stdout.strip()[:1]

    @property
    def ending(self) -> str:
        """The last lines of its log, as the end of a message."""
        return ending(self.launch.log)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process alone; nothing when it has ended."""
        self.process.send_signal(number)

    def stop(self, seconds: float) -> bool:
        """Ask it to end, and kill it when it has not after `seconds`. Returns whether it obeyed."""
        return not end([self.process], seconds, self.launch.stops_by)

    def kill(self) -> None:
        """SIGKILL to it and to what it started in its group."""
        kill_group(self.process)

    def check(self) -> None:
        """Raises ChildFailed when it has ended."""
        if not self.alive:
            raise ChildFailed(f"{self.name} ended with {self.exit_code}; {self.ending}")

    def died(self, now: float) -> None:
        """Settle when to start it again: soon when it was healthy for a while, else ever later."""
        healthy = now - self.started_at >= HEALTHY_SECONDS
        self.wait_seconds = FIRST_WAIT if healthy else min(self.wait_seconds * 2, LONGEST_WAIT)
        self.start_at = now + self.wait_seconds

    def start_again(self, now: float) -> None:
        """Put a new process in its place."""
        self.process, self.started_at, self.told = self.launch.start(), now, False


class Crew:
    """A context manager: at its end no child is left. `stop_seconds` is what each order of children has to obey."""

    def __init__(self, stop_seconds: float = STOP_SECONDS) -> None:
        self.children: dict[str, Child] = {}
        self._stop_seconds = stop_seconds

    def start(self, launch: Launch, *, doomed: bool = False) -> Child:
        """Start a child; it takes the place of the dead one of that name. Raises OSError when it cannot be started."""
        child = self.children[launch.name] = Child(launch, launch.start(), doomed)
        return child

    def dead(self) -> list[Child]:
        """Those that died unwanted since the last call, each told once; what they started in their group is killed."""
        found = [child for child in self.children.values() if not (child.told or child.doomed or child.alive)]
        for child in found:
            child.told = True
            child.kill()
        return found

    def tend(self) -> list[Child]:
        """One round of keeping all alive: start again who died and has waited. Returns those that died just now."""
        now = time.monotonic()
        for child in self.children.values():
            if child.told and now >= child.start_at:
                child.start_again(now)
        died = self.dead()
        for child in died:
            child.died(now)
        return died

    def check(self) -> None:
        """Raises ChildFailed for a child that has died and was not to."""
        for child in self.children.values():
            if not child.doomed:
                child.check()

    def until(self, condition: Callable[[], bool], seconds: float, child: Child, what: str) -> None:
        """Wait for what `child` is to do. Raises ChildFailed at once when one of the crew dies, else after `seconds`.

        `what` did not happen, such as "the API was not ready", begins the message.
        """

        def is_met() -> bool:
            self.check()
            return condition()

        if not until(is_met, seconds):
            raise ChildFailed(f"{what} within {seconds:g} s; {child.ending}")

    def end(self) -> list[Child]:
        """End all, one order after the other. Returns those that did not obey and were killed."""
        children = list(self.children.values())
        deaf: list[subprocess.Popen[bytes]] = []
        try:
            for order, by in sorted({(child.launch.order, child.launch.stops_by) for child in children}):
                some = [c.process for c in children if (c.launch.order, c.launch.stops_by) == (order, by)]
                deaf += end(some, self._stop_seconds, by)
        finally:
            end([child.process for child in children], 0)
        return [child for child in children if child.process in deaf]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
