"""Writing and reading the record: append-only files, one JSON value a line. Nothing rewrites a record."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from chaos.errors import RunUnreadable
from chaos.record.history import Effect, Kind, Operation

Record = TypeVar("Record", bound=msgspec.Struct)


class Appender:
    """One JSON line a record, one write(2) a line, O_APPEND: whole lines survive a kill of the writer."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, record: msgspec.Struct | dict[str, Any]) -> None:
        """Write it at once."""
        os.write(self._file, msgspec.json.encode(record) + b"\n")

    def close(self) -> None:
        """Closing twice is no error."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Recorder:
    """Appends operations in the order they are recorded; safe to call from threads and tasks alike."""

    def __init__(self, path: Path) -> None:
        self._out = Appender(path)
        self._lock = threading.Lock()
        self._indices = itertools.count()
        self._operations = itertools.count()
        self._open: dict[int, tuple[str, str]] = {}
        self.happened: Counter[str] = Counter()  # how many operations of each sort ended well

    def invoke(self, process: str, f: str, value: Any) -> int:
        """Record that `process` is about to do `f`; the number returned completes it."""
        with self._lock:
            op = next(self._operations)
            self._open[op] = (process, f)
            self._append(op, process, "invoke", f, value, None)
        return op

    def ok(self, op: int, value: Any) -> None:
        """It happened; `value` is what came of it."""
        self._complete(op, "ok", value, None)

    def fail(self, op: int, error: str, value: Any = None) -> None:
        """It certainly did not happen."""
        self._complete(op, "fail", value, error)

    def info(self, op: int, error: str, value: Any = None) -> None:
        """Nobody knows whether it happened."""
        self._complete(op, "info", value, error)

    def close(self) -> None:
        """What is open stays open: it counts as info."""
        self._out.close()

    @contextmanager
    def paired(self, process: str, f: str, value: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Record invoke, run the block, record ok with what the block added; an exception is info."""
        op = self.invoke(process, f, value)
        added: dict[str, Any] = {}
        try:
            yield added
        except BaseException as error:
            self.info(op, f"{type(error).__name__}: {error}", {**value, **added})
            raise
        self.ok(op, {**value, **added})

    def _complete(self, op: int, kind: Kind, value: Any, error: str | None) -> None:
        with self._lock:
            process, f = self._open.pop(op)
            self._append(op, process, kind, f, value, error)
            self.happened[f] += kind == "ok"

    def _append(self, op: int, process: str, kind: Kind, f: str, value: Any, error: str | None) -> None:
        line = Operation(next(self._indices), op, process, kind, f, value, time.monotonic_ns(), error)
        self._out.append(line)


class Tail:
    """Follows an effect ledger; each `read` returns the whole records written since the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._decoder = msgspec.json.Decoder(Effect)

    def read(self) -> list[Effect]:
        """Empty while there is no file."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [self._decoder.decode(line) for line in whole.splitlines()]


def read_records(path: Path, shape: type[Record]) -> list[Record]:
    """All records of a JSONL file. A torn last line (writer killed) is left out; any other damage raises."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(shape)
    lines = path.read_bytes().split(b"\n")
    whole, torn = lines[:-1], lines[-1]
    records: list[Record] = []
    for number, line in enumerate(whole, 1):
        try:
            records.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise RunUnreadable(f"{path}:{number}: {error}; the file was edited or is of another version") from error
    if torn:
        with suppress(msgspec.DecodeError):
            records.append(decoder.decode(torn))
    return records


def merge_histories(paths: list[Path]) -> list[Operation]:
    """Several processes' histories as one, in order of time, with `index` and `op` unique again."""
    merged: list[Operation] = []
    offset = 0
    for path in paths:
        part = read_records(path, Operation)
        merged += [msgspec.structs.replace(each, op=each.op + offset) for each in part]
        offset += max((each.op for each in part), default=-1) + 1
    merged.sort(key=lambda each: each.time_ns)
    return [msgspec.structs.replace(each, index=index) for index, each in enumerate(merged)]


def write_records(path: Path, records: list[Any]) -> None:
    """Write a whole file at once, so that a reader sees all of it or the old one."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    draft.replace(path)
