"""Helpers for the tests of who uses this scheduler: handlers inline, a throw-away stack, crashes on demand, traces.

Needs no pytest; the fixtures do: `pytest_plugins = ["scheduler.testing.fixtures"]`. See docs/testing.md.
"""

from scheduler.testing.inline import AttemptOutcome, run_inline, run_to_end
from scheduler.testing.points import HANDLER_POINTS, POINTS, Point
from scheduler.testing.stack import Stack, StoreUrls, run_through_crash
from scheduler.testing.tracing import trace
from scheduler.testing.waiting import eventually

__all__ = [
    "HANDLER_POINTS",
    "POINTS",
    "AttemptOutcome",
    "Point",
    "Stack",
    "StoreUrls",
    "eventually",
    "run_inline",
    "run_through_crash",
    "run_to_end",
    "trace",
]
