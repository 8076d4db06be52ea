"""The life of a server process: owned, started, stopped, killed, erased. Subclasses say which server.

Its data are its account's alone, and that account is never root's.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, ClassVar, Self

from scheduler.embedded import private
from scheduler.embedded.private import ELSEWHERE, Held
from scheduler.embedded.process import (
    Account,
    ServerFailed,
    end,
    ending,
    free_port,
    indented,
    is_free,
    kill_group,
    launch,
    note,
    runs_on,
    until,
)
from scheduler.embedded.program import Program, inspect, within_reach

LARGEST_LOG_BYTES = 10 << 20
PORT_SECONDS = 2.0

# Failures that pass by themselves: another process took the port between our look and the bind, or the last
# backends of a killed PostgreSQL still hold its shared memory.
PASSING = ("address already in use", "pre-existing shared memory block")


class Server(ABC):
    """One server on one data folder. `start` after `stop` or `kill` brings back the same data and port."""

    name: ClassVar[str]
    oldest: ClassVar[int]
    remedy: ClassVar[str]
    stops_by: ClassVar[signal.Signals] = signal.SIGTERM
    drops_root: ClassVar[bool] = False
    marks: ClassVar[tuple[str, ...]] = ("*",)  # names of which its data have one at least

    def __init__(
        self, data_dir: Path, *, port: int = 0, start_seconds: float = 60.0, stop_seconds: float = 30.0
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.folder = self.data_dir / self.name
        self.log = self.data_dir / f"{self.name}.log"
        self.port = port
        self.program: Program | None = None
        self.account: Account | None = None
        self._start_seconds, self._stop_seconds, self._deadline = start_seconds, stop_seconds, 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._state_path = self.data_dir / f"{self.name}.state"
        self._state: IO[str] | None = None
        self._held: Held | None = None
        self._since = 0  # where in the log the server's last start begins

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients reach it."""

    @abstractmethod
    def find(self) -> Program:
        """The program to run. Raises ServerFailed."""

    @abstractmethod
    def command(self, program: Program) -> list[str]:
        """What to execute."""

    @abstractmethod
    def is_ready(self, pid: int) -> bool:
        """Whether the server with this pid, and no other, serves."""

    def place(self) -> None:
        """Settle whose the data are; the data folder is ours by then, and no server runs on them."""
        self.account = private.SERVERS if self.drops_root and os.geteuid() == 0 else None
        if os.path.lexists(self.folder):
            self._take()

    def _take(self) -> None:
        private.take(self.folder, self.account, private.former_owners() if self.account else (), self.marks)

    def prepare(self, program: Program) -> None:  # noqa: B027  (most servers make what they need)
        """Bring the data into being, in the folder, which is there."""

    @property
    def seen(self) -> Path:
        """The folder with the data as the server finds it. Raises ServerFailed when it was not started."""
        if self._held is None:
            raise ServerFailed(f"{self.name} was not started; start it")
        return self._held.seen

    @property
    def alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Raises ServerFailed when the server does not run."""
        if self._process is None or not self.alive:
            raise ServerFailed(f"{self.name} does not run; start it")
        return self._process.pid

    def start(self) -> Self:
        """Start, and wait until it serves. Raises ServerFailed when it does not within the start deadline."""
        if self.alive:
            return self
        self._deadline = time.monotonic() + self._start_seconds
        last = self._own()
        try:
            self._stop_orphan(last.get("pid", 0))
            self.place()
            self.program = within_reach(self.find(), self.account)
            self._prepare(self.program)
            self._serve(self.program, last.get("port", 0))
        except BaseException:
            self._disown()
            raise
        note(f"{self.name}_started", program=self.program.path, version=self.program.version, port=self.port)
        return self

    def _prepare(self, program: Program) -> None:
        self._take()
        self.prepare(program)
        self._take()
        self._held = self._held or Held(self.folder, self.account)

    def stop(self) -> None:
        """Stop cleanly; kill it when it does not end within the stop deadline."""
        try:
            if self._process is not None and end([self._process], self._stop_seconds, self.stops_by):
                note(f"{self.name}_killed", logging.WARNING, reason=f"still there after {self._stop_seconds:g} s")
        finally:
            self._disown()

    def kill(self) -> None:
        """SIGKILL. The data folder stays ours, so that `start` finds it as the crash left it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(self._stop_seconds)

    def erase(self) -> None:
        """Stop, then remove the data and whatever else this server wrote."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in (self.log, self._state_path):
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def usable(self, found: Iterable[tuple[Path, str]], *, beside: str | None = None) -> list[Program]:
        """The candidates that will do, best first. Raises ServerFailed when there is none."""
        inspected = [inspect(path, origin, oldest=self.oldest, beside=beside) for path, origin in found]
        unfit = [reason for reason in inspected if isinstance(reason, str)]
        for reason in unfit:
            note(f"{self.name}_program_skipped", logging.WARNING, reason=reason)
        if programs := [program for program in inspected if isinstance(program, Program)]:
            return programs
        raise ServerFailed(f"no {self.name} server to run: {self.remedy}" + indented(unfit))

    def run_to_end(self, command: list[str], account: Account | None, inherits: Sequence[int]) -> None:
        """Run a helper program to its end. Raises ServerFailed when it fails, or lasts too long."""
        since = self._log_size()
        process = launch(command, log=self.log, dies_by=signal.SIGKILL, account=account, inherits=inherits)
        try:
            process.wait(max(self._deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise self._failure(f"was not ready within {self._start_seconds:g} s ({command[0]})", since) from None
        finally:
            kill_group(process)
        if process.returncode:
            raise self._failure(f"is not prepared: {command[0]} ended with {process.returncode}", since)

    def _own(self) -> dict[str, int]:
        """Take the data folder; returns what its last owner wrote down. The lock goes with its holder."""
        try:
            private.take_data_dir(self.data_dir)
            state = self._state or self._state_path.open("a+", encoding="ascii")
            for path in (self._state_path, *([self.log] if self.log.exists() else [])):
                path.chmod(0o600)
        except OSError as error:
            raise ServerFailed(f"no data can be kept: {error}; {ELSEWHERE}") from error
        try:
            fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with state:
                held = _read(state)
            raise ServerFailed(
                f"{self.folder} is in use by process {held.get('owner')}, with {self.name} on port"
                f" {held.get('port')}; stop that one, or {ELSEWHERE}"
            ) from None
        self._state = state
        return _read(state)

    def _disown(self) -> None:
        if self._state is not None:
            self._state.close()
            self._state = None
        if self._held is not None:
            self._held.close()
            self._held = None

    def _write_down(self, pid: int) -> None:
        if self._state is not None:
            self._state.truncate(0)
            self._state.write(json.dumps({"owner": os.getpid(), "pid": pid, "port": self.port}))
            self._state.flush()

    def _stop_orphan(self, pid: int) -> None:
        """Stop the server of an owner that was killed: dying already on Linux, in full health elsewhere."""
        if pid and runs_on(pid, self.folder):
            os.kill(pid, self.stops_by)
            if not until(lambda: not runs_on(pid, self.folder), self._deadline - time.monotonic()):
                raise ServerFailed(f"process {pid} still serves {self.folder} and does not stop; kill it")

    def _serve(self, program: Program, last_port: int) -> None:
        fixed = self.port
        while True:
            self.port = self._choose_port(fixed, last_port)
            self._since = self._log_size()
            self._process = self._launch(self.command(program))
            self._write_down(self._process.pid)
            try:
                return self._await_ready(self._process, self._since)
            except BaseException as error:
                self.kill()
                self.port = fixed
                passing = isinstance(error, ServerFailed) and any(words in str(error).lower() for words in PASSING)
                if not passing or time.monotonic() > self._deadline:
                    raise

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        inherits = [self._held.descriptor] if self._held else []
        return launch(command, log=self.log, dies_by=self.stops_by, account=self.account, inherits=inherits)

    def _choose_port(self, fixed: int, last: int) -> int:
        if not fixed:
            return last if last and is_free(last) else free_port()
        if not until(lambda: is_free(fixed), PORT_SECONDS):
            raise ServerFailed(f"port {fixed} for {self.name} is taken; stop what listens there, or choose another")
        return fixed

    def _await_ready(self, process: subprocess.Popen[bytes], since: int) -> None:
        seconds = self._deadline - time.monotonic()
        if not until(lambda: process.poll() is not None or self.is_ready(process.pid), seconds):
            raise self._failure(f"was not ready within {self._start_seconds:g} s", since)
        if process.poll() is not None:
            raise self._failure(f"ended with {process.returncode}", since)

    def _log_size(self) -> int:
        """Where the log ends; one that has grown too large starts anew."""
        size = self.log.stat().st_size if self.log.exists() else 0
        if size <= LARGEST_LOG_BYTES:
            return size
        os.truncate(self.log, 0)
        return 0

    def _failure(self, what: str, since: int) -> ServerFailed:
        program = f"{self.program.path} {self.program.version}" if self.program else "no program"
        return ServerFailed(f"{self.name} ({program}, data in {self.folder}) {what}; {ending(self.log, since)}")


def _read(state: IO[str]) -> dict[str, int]:
    state.seek(0)
    try:
        return dict(json.loads(state.read(1_000)))
    except ValueError:
        return {}
