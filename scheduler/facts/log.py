"""The log: one line a fact, as text or as JSON; what a handler logs, by any logger, carries its job."""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

NOISY = ("asyncio", "httpcore", "httpx", "uvicorn")  # libraries whose INFO is of no use to others
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "asctime", "facts", "message", "taskName", "trace"}
# A line break, an escape sequence or a turn of the writing direction in a value could pass for a line of ours.
_TURNS = (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_VISIBLE = {n: repr(chr(n))[1:-1] for n in (*range(32), *range(127, 160), *_TURNS)}


current_job: ContextVar[Any] = ContextVar("current_job", default=None)  # whose `about` are the fields of its lines


class _Formatter(logging.Formatter):
    def __init__(self, as_json: bool, process: str) -> None:
        super().__init__()
        self.as_json, self.process = as_json, process

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        trace = getattr(record, "trace", None) or (self.formatException(record.exc_info) if record.exc_info else "")
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        level, event = record.levelname, record.getMessage()
        if self.as_json:
            line = {"time": stamp, "level": level, "process": self.process, "event": event}
            return json.dumps({**line, **fields, **line, **({"trace": trace} if trace else {})}, default=str)
        words = "".join(f" {name}={value}" for name, value in fields.items())
        lines = [f"{stamp} {level:<7} {self.process} {event}{words}", *trace.splitlines()]
        return "\n  | ".join(line.translate(_VISIBLE) for line in lines)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """Of the job that runs, of the call's `extra`, and of a fact."""
    job = current_job.get()
    extra = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
    return {**(job.about if job else {}), **extra, **getattr(record, "facts", {})}


def configure(process: str, level: str = "INFO", log_format: str = "text") -> None:
    """Send every log, the package's and its user's, to standard error; of noisy libraries only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(log_format == "json", process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in NOISY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
