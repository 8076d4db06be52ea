"""`scheduler up`: one terminal for the API, N workers and, where no URL is set, embedded stores.

Ctrl-C reaches this process alone, and everything stops in order. A child that dies is started again, ever more slowly
when it keeps dying; none outlives this process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from scheduler.embedded import Crew, Launch, ServerFailed, Untrusted, embedded, is_free
from scheduler.errors import ConfigurationError, SchedulerError
from scheduler.facts.facts import CHILD_DIED, KILLED, STARTING_STORES, STOPPING, UP, tell
from scheduler.settings import Settings

POLL_SECONDS = 0.1
STOP_SLACK_SECONDS = 10.0
SAMPLES = {"SCHEDULER_SAMPLES": "1"}  # unless the caller says otherwise


def run_up(settings: Settings, workers: int) -> int:
    """Run until SIGINT or SIGTERM. Raises ConfigurationError when the port is taken or one store's URL is missing."""
    if settings.port and not is_free(settings.port):
        raise ConfigurationError(f"port {settings.port} is taken; stop what uses it, or set SCHEDULER_PORT")
    stops: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stops.append(number))
    crew = Crew(settings.grace_seconds + STOP_SLACK_SECONDS)
    with _stores(settings) as urls:
        try:
            for order, name in enumerate(["api", *["worker"] * workers]):
                crew.start(_launch(name, order, urls))
            tell(UP, api=f"{settings.own_url}/docs", workers=workers, stop="Ctrl-C")
            while not stops:
                for child in crew.tend():
                    wait = round(child.wait_seconds, 1)
                    tell(CHILD_DIED, child=child.name, exit_code=child.exit_code, restart_seconds=wait)
                time.sleep(POLL_SECONDS)
        finally:
            tell(STOPPING, grace_seconds=settings.grace_seconds)
            for child in crew.end():
                tell(KILLED, child=child.name)
    return 0


def _launch(role: str, number: int, urls: dict[str, str]) -> Launch:
    """The API ends first, so that nothing new comes in while the workers drain."""
    name, words = f"{role} {number}" if number else role, [sys.executable, "-m", "scheduler", role]
    return Launch(
        name, words, environment=SAMPLES | os.environ | urls, folder=".", dies_by=signal.SIGTERM, order=min(number, 1)
    )


@contextmanager
def _stores(settings: Settings) -> Iterator[dict[str, str]]:
    """The URLs to hand down when none is set. Raises ConfigurationError for one without the other."""
    if settings.database_url or settings.redis_url:
        settings.require_stores()
        yield {}
        return
    tell(STARTING_STORES, folder=settings.data_dir.resolve())
    try:
        with embedded(settings.data_dir) as stores:
            yield {"SCHEDULER_DATABASE_URL": stores.postgres.url, "SCHEDULER_REDIS_URL": stores.redis.client_url}
    except Untrusted as error:
        raise ConfigurationError(str(error)) from error
    except ServerFailed as error:
        raise SchedulerError(str(error)) from error
