"""A job scheduler whose record is PostgreSQL and whose index is Redis: an accepted job is never lost.

from scheduler import job, submit, Client, Discard, Snooze
"""

from scheduler.client import Client, submit
from scheduler.errors import Discard, SchedulerError, Snooze
from scheduler.jobs.registry import job
from scheduler.worker.executor import JobContext

__version__ = "0.1.0"
__all__ = ["Client", "Discard", "JobContext", "SchedulerError", "Snooze", "job", "submit"]
