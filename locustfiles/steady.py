"""Open-loop load: jobs arrive by a seeded Poisson process, whether or not earlier ones have been answered.

`locust -f locustfiles/steady.py --headless --host http://127.0.0.1:3000`, from the project's root. One
arrival user walks the schedule and spawns a greenlet a job; latencies count from the scheduled time, so slow
answers hide nothing. Environment: STEADY_RATE (50 jobs/s), STEADY_SECONDS (30), STEADY_MAX_IN_FLIGHT (2000;
arrivals beyond it are counted as dropped), and STEADY_SEED, STEADY_WEBHOOK_URL, STEADY_DRAIN_SECONDS,
RUN_HISTORY, RUN_OP_BASE as in `burst.py`. Exit status: 0 when nothing was dropped and
every job became final, else 1.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator

import gevent  # type: ignore[import-untyped]
from gevent.pool import Pool  # type: ignore[import-untyped]
from locust import constant, task
from locust.env import Environment
from locust.exception import StopUser

from locustfiles.client import JobUser
from locustfiles.profile import Profile, Test

steady = Profile("steady", users=1, limit=math.inf)


class Dropped(Exception):
    """An arrival that was never sent, because too many jobs were in flight already."""


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Arrival times in seconds from the start: exponential gaps, the same for the same seed."""
    rng = random.Random(seed)
    at = rng.expovariate(rate)
    while at < seconds:
        yield at
        at += rng.expovariate(rate)


class SteadyUser(JobUser):
    """The one arrival user."""

    fixed_count = 1
    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        self.concurrency = steady.settings.max_in_flight
        super().__init__(environment)

    @task
    def walk_schedule(self) -> None:
        test, settings = steady.test, steady.settings
        pool, start_ns = Pool(settings.max_in_flight), time.monotonic_ns()
        for at in arrivals(settings.rate, settings.seconds, settings.seed):
            intended_ns = start_ns + int(at * 1e9)
            gevent.sleep(max(0.0, (intended_ns - time.monotonic_ns()) / 1e9))
            if test.stopping:
                break
            self._arrive(test, pool, intended_ns)
        pool.join()
        steady.finish(self.environment)
        raise StopUser

    def _arrive(self, test: Test, pool: Pool, intended_ns: int) -> None:
        if pool.full():
            test.dropped += 1
            self.environment.events.request.fire(
                request_type="DROPPED",
                name="arrival",
                response_time=0,
                response_length=0,
                exception=Dropped(),
            )
        elif (job := test.take()) is not None:
            pool.spawn(self.see_through, test, job, intended_ns)
