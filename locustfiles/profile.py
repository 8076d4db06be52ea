"""A profile's settings and state: which test runs, what became of its jobs, how it begins, drains and ends.

Owns Locust's test events, so that no profile ends with a false loss: at the end it takes no new jobs and
waits for those under way. It never judges; a job that was not final when time ran out is called just that.
"""

from __future__ import annotations

import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust import events
from locust.env import Environment
from locust.runners import LocalRunner

from chaos.load.mix import Job
from locustfiles.history import History
from locustfiles.mix import jobs
from locustfiles.page import guard


@dataclass(frozen=True, slots=True)
class Settings:
    """Read once from the environment; each variable begins with the profile's name in capitals."""

    jobs: int = 1000
    seed: int = 1
    webhook_url: str | None = None
    drain_seconds: float = 30.0
    job_seconds: float = 180.0
    api_key: str | None = None
    history: Path | None = None
    op_base: int = 1_000_000
    rate: float = 50.0  # jobs/s; this and the next two are for open-loop profiles
    seconds: float = 30.0
    max_in_flight: int = 2_000

    @classmethod
    def read(cls, prefix: str) -> Settings:
        """From the environment as it is now. Raises ValueError for what is no number."""
        env, default = os.environ, cls()
        return cls(
            jobs=int(env.get(f"{prefix}_JOBS", default.jobs)),
            seed=int(env.get(f"{prefix}_SEED", default.seed)),
            webhook_url=env.get(f"{prefix}_WEBHOOK_URL") or None,
            drain_seconds=float(env.get(f"{prefix}_DRAIN_SECONDS", default.drain_seconds)),
            job_seconds=float(env.get(f"{prefix}_JOB_SECONDS", default.job_seconds)),
            api_key=env.get("SCHEDULER_API_KEYS", "").split(",")[0].strip().rpartition(":")[2] or None,
            history=Path(env["RUN_HISTORY"]) if env.get("RUN_HISTORY") else None,
            op_base=int(env.get("RUN_OP_BASE", default.op_base)),
            rate=float(env.get(f"{prefix}_RATE", default.rate)),
            seconds=float(env.get(f"{prefix}_SECONDS", default.seconds)),
            max_in_flight=int(env.get(f"{prefix}_MAX_IN_FLIGHT", default.max_in_flight)),
        )


@dataclass(slots=True)
class Test:
    """One start of a profile: the jobs still to submit, what became of the others, and when to give up."""

    settings: Settings
    source: Iterator[Job]
    history: History
    limit: float
    taken: int = 0
    open: int = 0
    dropped: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    submit_seconds: list[float] = field(default_factory=list)
    end_to_end_seconds: list[float] = field(default_factory=list)
    stop_at: float = math.inf

    def take(self) -> Job | None:
        """The next job, or None when there is none left or the test is stopping."""
        if self.taken >= self.limit or self.stopping:
            return None
        self.taken += 1
        self.open += 1
        return next(self.source)

    @property
    def stopping(self) -> bool:
        return self.stop_at != math.inf

    @property
    def unfinished(self) -> int:
        return self.taken - self.statuses.total()

    def drain(self, seconds: float) -> None:
        """Take no more jobs and wait, at most `seconds`, until every taken one is done with."""
        self.stop_at = min(self.stop_at, time.monotonic() + seconds)
        while self.open and time.monotonic() < self.stop_at:
            gevent.sleep(0.05)

    def summary(self) -> str:
        ended = ", ".join(f"{count:,} {status}" for status, count in sorted(self.statuses.items())) or "none"
        final = self.statuses.total()
        lines = [
            f"{self.taken:,} jobs: {final:,} final ({ended}), {self.unfinished:,} not final",
            f"submit      {_quantiles(self.submit_seconds)}",
            f"end to end  {_quantiles(self.end_to_end_seconds)}",
        ]
        if self.dropped:
            lines.append(f"{self.dropped:,} arrivals were never sent: too many jobs in flight already")
        if self.unfinished:
            lines.append("Not final is not lost: time ran out. The verdict comes from the run's own records.")
        return "\n".join(lines)


class Profile:
    """A named load: its settings, the test under way, and the test events of Locust it answers to.

    Importing it reads nothing and opens nothing: settings, history and test are there from Locust's `init` on.
    """

    settings: Settings
    test: Test

    def __init__(self, name: str, *, users: int | None = None, limit: float | None = None) -> None:
        self.name = name
        self._users, self._limit = users, limit
        self._interrupted = False
        self._listen()

    def _listen(self) -> None:
        hooks: tuple[tuple[Any, Callable[..., None]], ...] = (
            (events.init, self._open),
            (events.test_start, self._begin),
            (events.test_stopping, self._drain),
            (events.test_stop, self._tell),
            (events.quitting, self._quitting),
        )
        for hook, listener in hooks:
            hook.add_listener(listener)

    def finish(self, environment: Environment) -> None:
        """Every job is done with: end the test. Headless leaves, with the web page only the test ends."""
        if self.test.stopping:
            return
        self.test.drain(0)
        options, runner = environment.parsed_options, environment.runner
        if runner is not None:
            gevent.spawn(runner.quit if options is None or options.headless else runner.stop)

    def _begin(self, **_: Any) -> None:
        prefix = f"{self.name}-{uuid.uuid4().hex[:12]}"
        source = jobs(self.settings.seed, prefix, self.settings.webhook_url)
        limit = self.settings.jobs if self._limit is None else self._limit
        self.test = Test(self.settings, source, self._history, limit)

    def _open(self, environment: Environment, **_: Any) -> None:
        """Read the environment and begin. Locust logs an Exception of a listener and goes on; SystemExit ends it."""
        try:
            self.settings = Settings.read(self.name.upper())
        except ValueError as error:
            raise SystemExit(f"{self.name}: a setting is no number: {error}") from error
        self._history = History(self.settings.history, self.settings.op_base)
        self._begin()
        guard(environment)
        self._check(environment)

    def _check(self, environment: Environment) -> None:
        if not isinstance(environment.runner, LocalRunner):
            told = f"{self.name} counts its jobs in one process: leave out --master and --processes"
            raise RuntimeError(told)  # noqa: TRY004  (a command line, not an argument, is wrong)
        options = environment.parsed_options
        if options is not None:
            users = self._users or self.settings.jobs
            options.num_users = options.num_users or users
            options.spawn_rate = options.spawn_rate or users

    def _drain(self, **_: Any) -> None:
        self.test.drain(0 if self._interrupted else self.settings.drain_seconds)

    def _tell(self, **_: Any) -> None:
        if self.test.taken:
            print(f"\n{self.name}: {self.test.summary()}", flush=True)  # noqa: T201  (its only report)

    def _quitting(self, environment: Environment, **_: Any) -> None:
        """Comes before the stop only on a signal; then nobody wants to wait for the drain."""
        self._interrupted = True
        if self.test.taken:
            environment.process_exit_code = 1 if self.test.unfinished or self.test.dropped else 0


def _quantiles(values: list[float]) -> str:
    """Exact quantiles in ms; Locust's own tables keep two significant digits."""
    if not values:
        return "no job got this far"
    ranked = sorted(values)
    at = {q: ranked[min(len(ranked) - 1, int(len(ranked) * q))] for q in (0.5, 0.95, 0.99)}
    shown = ", ".join(f"p{q * 100:.0f} {value * 1000:,.1f} ms" for q, value in at.items())
    return f"{shown}, max {ranked[-1] * 1000:,.1f} ms (n = {len(ranked):,})"
