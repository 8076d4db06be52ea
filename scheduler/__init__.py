"""A job scheduler whose record is PostgreSQL and whose index is Redis: an accepted job is never lost.

from scheduler import job, submit, Client, Discard, Snooze
"""

from scheduler.client import Client, SyncClient, submit, submit_many
from scheduler.errors import Discard, SchedulerError, Snooze
from scheduler.handlers import Job, job, resource
from scheduler.jobs.retry import RetryPolicy
from scheduler.worker.executor import JobContext

__version__ = "0.1.0"
__all__ = ["Client", "Discard", "Job", "JobContext", "RetryPolicy", "SchedulerError", "Snooze", "SyncClient"]
__all__ += ["job", "resource", "submit", "submit_many"]
