"""One child process: launched so that it ends with its parent, looked at, ended; and free ports. Knows no server."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # not ephemeral: a reconnecting client cannot take a dead server's port
LAUNCH_SECONDS, KILL_SECONDS = 30.0, 10.0
TAIL_BYTES, TAIL_LINES = 20_000, 12
_log = logging.getLogger("scheduler.embedded")

# Runs between fork and exec, in a Python of its own, as a threaded parent must not run code there. The kernel
# forgets the parent-death signal when the account changes, so the account goes first.
LAUNCHER = """
import ctypes, os, signal, sys
parent, death, account, *command = sys.argv[1:]
if account:
    uid, gid = map(int, account.split(":"))
    os.setgroups([gid]), os.setgid(gid), os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, int(death), 0, 0, 0)
    if os.getppid() != int(parent):
        sys.exit("the process that wanted this one is gone")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
os.execv(command[0], command)
"""


class ChildFailed(Exception):
    """A child process ended by itself, or did not come up in time; the message has the end of its log."""


class ServerFailed(ChildFailed):
    """A server could not be found, owned or started; the message has the remedy, or the end of its log."""


class Untrusted(ServerFailed):
    """What stands in the place of a server's data is, or may be, another user's."""


@dataclass(frozen=True, slots=True)
class Account:
    """The user that a server runs as when we are root."""

    uid: int
    gid: int

    def reaches(self, path: Path) -> bool:
        """Whether this user may search every folder on the way to `path`, and `path` itself."""
        path = path.resolve()
        return all(self._may_search(folder) for folder in (path, *path.parents) if folder.is_dir())

    def _may_search(self, folder: Path) -> bool:
        found = folder.stat()
        shift = 6 if found.st_uid == self.uid else 3 if found.st_gid == self.gid else 0
        return bool(found.st_mode >> shift & 1)


@cache
def _forker() -> ThreadPoolExecutor:
    """The parent-death signal comes when the forking *thread* ends: one that lasts until we end forks all."""
    return ThreadPoolExecutor(1, "forker")


def launch(
    command: Sequence[str],
    *,
    log: Path | None,
    dies_by: signal.Signals = signal.SIGTERM,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    folder: str | Path = "/",
    piped: bool = False,
    inherits: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program that gets `dies_by` when this process ends, in a session that Ctrl-C does not reach.

    `environment` is all that it sees; None: ours, without what would change how a server behaves. What it says goes to
    `log`, without one to where ours goes; `piped`, we write its standard input and read its standard output. It
    `inherits` these descriptors. That it ends with us only Linux can see to; elsewhere it outlives a SIGKILL of this
    process, until the next start.
    """
    ids = f"{account.uid}:{account.gid}" if account else ""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(int(dies_by)), ids]
    if environment is None:
        foreign = ("PG", "LC_", "LANG")
        environment = {name: text for name, text in os.environ.items() if not name.startswith(foreign)} | {
            "LC_ALL": "C"
        }
    with open(log, "ab", opener=_privately) if log else nullcontext() as output:
        started = _forker().submit(
            subprocess.Popen,
            [*launcher, *command],
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else output,
            stderr=output,
            start_new_session=True,
            cwd=folder,
            env=environment,
            pass_fds=inherits,
        )
        return started.result(timeout=LAUNCH_SECONDS)


def _privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def end(
    processes: Iterable[subprocess.Popen[bytes]], seconds: float, by: signal.Signals = signal.SIGTERM
) -> list[subprocess.Popen[bytes]]:
    """Ask with `by`, give `seconds` to obey, then SIGKILL to the process groups. Returns those that did not obey.

    An exception meanwhile, such as a second Ctrl-C, takes the rest of the time from them; none is left in any case.
    """
    living = [process for process in processes if process.poll() is None]
    deadline = time.monotonic() + seconds
    try:
        for process in living:
            process.send_signal(by)
            process.send_signal(signal.SIGCONT)  # who was stopped hears nothing else
        for process in living:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        return [process for process in living if process.poll() is None]
    finally:
        for process in living:
            kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a child, living or just ended, and to what it started in its group; waits for the child."""
    with suppress(ProcessLookupError, PermissionError):  # macOS: not permitted, where only a zombie is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(KILL_SECONDS)


def ending(log: Path | None, since: int = 0) -> str:
    """The last lines of a log, as the end of a message; only what was written from byte `since` on."""
    if log is None:
        return "see what it wrote above"
    lines: list[str] = []
    if log.exists():
        with log.open("rb") as text:
            text.seek(max(since, log.stat().st_size - TAIL_BYTES))
            lines = text.read(TAIL_BYTES).decode(errors="replace").splitlines()[-TAIL_LINES:]
    return f"{log} ends with" + indented(lines or ["(nothing)"])


def indented(lines: Iterable[str]) -> str:
    """Each line on a line of its own, below what stands before."""
    return "".join(f"\n    {line}" for line in lines)


def note(event: str, level: int = logging.INFO, **facts: object) -> None:
    """One log line with its facts beside it, for whoever set up logging to format."""
    _log.log(level, event, extra={"facts": facts})


def runs_on(pid: int, folder: Path) -> bool:
    """Whether that process lives and works in `folder`, or names it on its command line: pids are reused."""
    listing, folder = ["ps", "-o", "command=", "-p", str(pid)], folder.resolve()
    try:
        if (process := Path(f"/proc/{pid}")).parent.joinpath("self").exists():
            return os.fsencode(folder) in (process / "cmdline").read_bytes() or (process / "cwd").readlink() == folder
        return os.fsencode(folder) in subprocess.run(listing, capture_output=True, timeout=10, check=False).stdout
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition of another process, which announces nothing; False when the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def is_free(port: int) -> bool:
    """Whether nothing listens on that port of loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of loopback that nothing listens on, outside the range that clients are given theirs from."""
    while not is_free(port := PORTS[secrets.randbelow(len(PORTS))]):
        pass
    return port
