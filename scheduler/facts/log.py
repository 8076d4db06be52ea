"""The log: one line a fact, as text or as JSON. The only place that formats."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool, process: str) -> None:
        super().__init__()
        self.as_json, self.process = as_json, process

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "facts", {})
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        level, event = record.levelname, record.getMessage()
        if self.as_json:
            line = {"time": stamp, "level": level, "process": self.process, "event": event}
            return json.dumps({**line, **fields, **({"trace": trace} if trace else {})}, default=str)
        words = "".join(f" {name}={value}" for name, value in fields.items())
        return f"{stamp} {level:<7} {self.process} {event}{words}" + (f"\n{trace}" if trace else "")


def configure(process: str, level: str = "INFO", log_format: str = "text") -> None:
    """Send the package's log, and warnings of its libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(log_format == "json", process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("scheduler").setLevel(level)
