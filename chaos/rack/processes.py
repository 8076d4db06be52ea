"""Child processes of the rack: started with little around them, ended in order, looked at from outside."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

from scheduler.embedded import launch

ROOT = Path(__file__).parent.parent.parent
STOP_SECONDS = 15.0
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")


def start(command: Sequence[str], variables: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """A program with these variables and few others; killed with us, even while SIGSTOP keeps it deaf."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {key: os.environ[key] for key in KEPT if key in os.environ}
    return launch(command, log=log, dies_by=SIGKILL, environment=kept | {"PYTHONPATH": path, **variables})


def end(processes: Iterable[subprocess.Popen[bytes]], by: Signals = SIGTERM, seconds: float = STOP_SECONDS) -> None:
    """The signal to all, time to obey, then SIGKILL to those that did not."""
    living = [process for process in processes if process.poll() is None]
    for process in living:
        process.send_signal(by)
        process.send_signal(SIGCONT)
    deadline = time.monotonic() + seconds
    for process in living:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(seconds)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition of another process; False when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def ending(log: Path) -> str:
    """The last lines of a log, for an error message."""
    lines = log.read_text(errors="replace").splitlines()[-8:] if log.exists() else []
    return f"{log} ends with:\n" + "\n".join(f"    {line}" for line in lines or ["(nothing)"])


def children(parent: int) -> Iterator[int]:
    """The pids of those that a process has started and that are still there."""
    listing = ["ps", "-A", "-o", "pid=,ppid="]
    table = subprocess.run(listing, capture_output=True, text=True, timeout=10, check=True).stdout
    for line in table.splitlines():
        pid, ppid = map(int, line.split())
        if ppid == parent:
            yield pid


def state(pid: int) -> str:
    """One letter: T is stopped, R running, S asleep."""
    if (stat := Path(f"/proc/{pid}/stat")).exists():
        return stat.read_text().rpartition(")")[2].split()[0]
    listing = ["ps", "-o", "state=", "-p", str(pid)]
    return subprocess.run(listing, capture_output=True, text=True, timeout=10, check=False).stdout.strip()[:1]
