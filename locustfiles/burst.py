"""The classic load test: 1,000 jobs submitted at once, each followed to its final status.

`locust -f locustfiles/burst.py --headless --host http://127.0.0.1:3000 -u 1000 -r 1000 -t 60s`, from the
project's root, stops by itself when every job is final. Without `--headless` the same test waits in the web
page. Environment: BURST_JOBS (1000), BURST_SEED (1), BURST_WEBHOOK_URL (adds webhook jobs),
BURST_DRAIN_SECONDS (30, granted after `-t`), RUN_HISTORY (a file that gets every operation), RUN_OP_BASE
(1,000,000, its first operation number). Exit status: 0 when every job became final, else 1.
"""

from __future__ import annotations

import time

from locust import constant, task
from locust.env import Environment
from locust.exception import StopUser

from locustfiles.client import JobUser
from locustfiles.profile import Profile

burst = Profile("burst")


class BurstUser(JobUser):
    """Takes a job the moment it is born, and the next whenever it has seen one through."""

    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.intended_ns = time.monotonic_ns()

    @task
    def see_jobs_through(self) -> None:
        test = burst.test
        while (job := test.take()) is not None:
            self.see_through(test, job, self.intended_ns)
            self.intended_ns = time.monotonic_ns()
        if test.taken == test.limit and test.open == 0:
            burst.finish(self.environment)
        raise StopUser
