"""What the tests stand on: the stack that users get for their own tests. `ROOT` is where this repository lies."""

from pathlib import Path

from scheduler.testing import Stack as Cluster
from scheduler.testing import eventually

__all__ = ["JSON", "ROOT", "Cluster", "eventually"]

ROOT = Path(__file__).parent.parent
JSON = {"content-type": "application/json"}  # what a raw body is sent with
