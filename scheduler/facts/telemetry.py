"""Facts that the package reports: one name an event, in log and metrics alike. Formatting lives here only."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter as Tally
from collections.abc import Mapping

logger = logging.getLogger("scheduler")

# Counted events: name -> what one unit of it means. The API exports them for itself and for every live worker.
COUNTED = {
    "submitted": "jobs accepted (committed) by this process",
    "repeated": "submissions answered with the job that their idempotency key already had",
    "refused": "submissions refused by admission control",
    "published": "job ids put on the stream",
    "claimed": "jobs claimed",
    "unclaimed": "deliveries whose job was no longer to be claimed",
    "completed": "attempts that completed",
    "retried": "attempts that failed with another one to come",
    "failed": "jobs that went to the dead letters",
    "snoozed": "jobs put off by their handler",
    "released": "jobs given back unburned",
    "lease_lost": "outcomes that came too late: another claim had happened",
    "rescued": "jobs given back for a dead worker",
    "reconciled": "due jobs published by the reconciler",
    "promoted": "ids moved from the retry ZSET to the stream",
    "adopted": "deliveries taken over from a dead worker",
    "pruned": "finished jobs deleted after their retention",
    "store_errors": "calls to a store that failed or timed out",
}

tally: Tally[str] = Tally()


def count(event: str, amount: int = 1) -> None:
    if amount:
        tally[event] += amount


def emit(event: str, level: int = logging.INFO, **facts: object) -> None:
    """One log line; values are facts, not prose."""
    if logger.isEnabledFor(level):
        logger.log(level, event, extra={"facts": facts})


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool, process: str) -> None:
        super().__init__()
        self.as_json, self.process = as_json, process

    def format(self, record: logging.LogRecord) -> str:
        facts: Mapping[str, object] = getattr(record, "facts", {})
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if self.as_json:
            line = {
                "time": stamp,
                "level": record.levelname,
                "process": self.process,
                "event": record.getMessage(),
            }
            return json.dumps({**line, **facts, **({"trace": trace} if trace else {})}, default=str)
        words = "".join(f" {name}={value}" for name, value in facts.items())
        return f"{stamp} {record.levelname:<7} {self.process} {record.getMessage()}{words}" + (
            f"\n{trace}" if trace else ""
        )


def configure(process: str, level: str = "INFO", log_format: str = "text") -> None:
    """Send the package's log, and warnings of its libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(log_format == "json", process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logger.setLevel(level)
