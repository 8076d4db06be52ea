"""`scheduler up`: one terminal for the API, N workers and, where no URL is set, embedded stores.

Children run in sessions of their own, so that Ctrl-C reaches this process alone and everything stops in order. A
child that dies is started again, ever more slowly when it keeps dying; none outlives this process.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from scheduler.embedded import ServerFailed, embedded
from scheduler.embedded.process import LAUNCHER, is_free
from scheduler.errors import ConfigurationError, SchedulerError
from scheduler.facts.telemetry import emit
from scheduler.settings import Settings

POLL_SECONDS = 0.1
FIRST_WAIT, LONGEST_WAIT, HEALTHY_SECONDS = 0.2, 10.0, 10.0
STOP_SLACK_SECONDS = 10.0


@dataclass(slots=True)
class Child:
    """A process to keep running."""

    name: str
    command: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    wait: float = FIRST_WAIT

    def start(self) -> None:
        launcher = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            LAUNCHER,
            str(os.getpid()),
            str(int(signal.SIGTERM)),
            "",
        ]
        command = [*launcher, sys.executable, "-m", "scheduler", self.command]
        self.process = subprocess.Popen(command, env=dict(self.environment), start_new_session=True)
        self.started_at = time.monotonic()

    def tend(self) -> None:
        """Start the process if it is due; note its end and when to try again."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.start_at:
                self.start()
            return
        if (code := self.process.poll()) is None:
            return
        self.wait = FIRST_WAIT if now - self.started_at >= HEALTHY_SECONDS else min(self.wait * 2, LONGEST_WAIT)
        self.start_at, self.process = now + self.wait, None
        emit(
            "child_died",
            logging.WARNING,
            child=self.name,
            exit_code=code,
            restart_seconds=round(self.wait, 1),
        )

    def signal(self, number: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def stopped(self, until: float) -> bool:
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True


def run_up(settings: Settings, workers: int) -> int:
    """Run until SIGINT or SIGTERM. Raises ConfigurationError when the port is taken or one store's URL is missing."""
    if settings.port and not is_free(settings.port):
        raise ConfigurationError(f"port {settings.port} is taken; stop what uses it, or set SCHEDULER_PORT")
    with ExitStack() as stack:
        stopping = stack.enter_context(_stop_signals())
        environment = {**os.environ, **stack.enter_context(_stores(settings))}
        children = [Child("api", "api", environment)]
        children += [Child(f"worker {n}", "worker", environment) for n in range(1, workers + 1)]
        try:
            emit("up", api=f"http://{settings.host}:{settings.port}/docs", workers=workers, stop="Ctrl-C")
            while not stopping():
                for child in children:
                    child.tend()
                time.sleep(POLL_SECONDS)
        finally:
            _stop(children, settings.grace_seconds)
    return 0


def _stop(children: list[Child], grace_seconds: float) -> None:
    """API first, so that nothing new comes in while the workers drain."""
    emit("stopping", grace_seconds=grace_seconds)
    for command in ("api", "worker"):
        some = [child for child in children if child.command == command]
        for child in some:
            child.signal(signal.SIGTERM)
        until = time.monotonic() + grace_seconds + STOP_SLACK_SECONDS
        for child in some:
            if not child.stopped(until):
                emit("killed", logging.WARNING, child=child.name)
                child.signal(signal.SIGKILL)
                child.stopped(time.monotonic() + STOP_SLACK_SECONDS)


@contextmanager
def _stores(settings: Settings) -> Iterator[dict[str, str]]:
    """The URLs to hand down when none is set. Raises ConfigurationError for one without the other."""
    if settings.database_url or settings.redis_url:
        settings.require_stores()
        yield {}
        return
    emit("starting_stores", folder=settings.data_dir.resolve())
    with ExitStack() as stack:
        try:
            stores = stack.enter_context(embedded(settings.data_dir))
        except ServerFailed as error:
            raise SchedulerError(str(error)) from error
        yield {"SCHEDULER_DATABASE_URL": stores.postgres.url, "SCHEDULER_REDIS_URL": stores.redis.url}


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """A question whether SIGINT or SIGTERM has come; the handlers before are put back."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
