"""The load generator's half of a run's history: one JSON line an operation, invoke and completion.

Appends with one `write` a line on an `O_APPEND` descriptor, so several processes share the file. It decides
nothing about an operation: `client` says whether it went ok, failed or is unknown (`info`).
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Value = Mapping[str, object]
Completion = Literal["ok", "fail", "info"]


@dataclass(slots=True)
class Processes:
    """Names of logical processes: one operation at a time each, retired for good after an unknown outcome."""

    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    _free: list[int] = field(default_factory=list)

    def acquire(self) -> int:
        return self._free.pop() if self._free else next(self._numbers)

    def release(self, number: int) -> None:
        self._free.append(number)


class History:
    """Writes operations to `path`; with `path` None it only hands out operation numbers."""

    def __init__(self, path: Path | None, op_base: int) -> None:
        self._ops = itertools.count(op_base)
        self._indexes = itertools.count(op_base)
        self._descriptor = None if path is None else _open(path)
        self.processes = Processes()

    def invoke(self, process: int, f: str, value: Value) -> int:
        """Record that an operation begins; returns its number, which joins it to its completion."""
        op = next(self._ops)
        self._write(op, process, "invoke", f, value, None)
        return op

    def complete(self, op: int, process: int, kind: Completion, f: str, value: Value, error: str | None = None) -> None:
        self._write(op, process, kind, f, value, error)

    def _write(self, op: int, process: int, kind: str, f: str, value: Value, error: str | None) -> None:
        if self._descriptor is None:
            return
        line = {
            "index": next(self._indexes),
            "op": op,
            "process": f"locust-{process}",
            "type": kind,
            "f": f,
            "value": value,
            "time_ns": time.monotonic_ns(),
            "error": error,
        }
        os.write(self._descriptor, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
