"""A submission: what somebody wants run, checked in one place for every door (HTTP, SQL, inline) before any SQL.

It owns the bounds of a job, the encoding of its payload, its fingerprint, and the answer to whether the job that holds
a key is the same. It reads neither clock nor settings: both are handed in. Migration 0002 repeats the bounds.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import accumulate, islice
from math import isinf
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from scheduler.errors import InvalidJob, KeyReused, PayloadTooLarge, nearest
from scheduler.jobs.job import NewJob
from scheduler.jobs.registry import handlers
from scheduler.settings import Settings

Made = TypeVar("Made")
Steps = Generator[None, None, Made]

MAX_BATCH_JOBS = 10_000
MAX_DEPTH = 100
TOO_DEEP = f"nested too deeply; {MAX_DEPTH} levels are allowed"
YEAR_SECONDS = 366 * 86_400
RULES = {
    "jobs": f"1 to {MAX_BATCH_JOBS} jobs; send several batches",
    "type": "1 to 200 printable characters",
    "payload": "a JSON object",
    "delay_seconds": f"a number of seconds from now, 0 to {YEAR_SECONDS}",
    "run_at": "a time with its UTC offset, as 2030-01-31T12:00:00Z, at most ten years ahead; a past time means now",
    "max_attempts": "a whole number, 1 to 1000",
    "timeout_seconds": f"a number of seconds above 0, at most {YEAR_SECONDS}",
    "idempotency_key": "1 to 255 printable characters",
}
_STEPS, _NO_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff"), bytes(set(range(256)) - set(b"[{]}"))
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
PIECE_BYTES = 64 << 10
PIECE_ITEMS = 4_000
# What JSON has no word for (a time, a UUID, a Decimal) becomes text, as in a handler's result.
_dump = json.JSONEncoder(
    allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=msgspec.to_builtins
).encode
_canonical = msgspec.json.Encoder(order="deterministic").encode


def _rule(field: str, **bounds: Any) -> Meta:
    return Meta(description=RULES[field], **bounds)


class Options(TypedDict, total=False):
    """What a submission may say besides its type and payload; `run_at` as text is RFC 3339."""

    delay_seconds: float | None
    run_at: datetime | str | None
    max_attempts: int | None
    timeout_seconds: float | None
    idempotency_key: str | None


class Submission(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One job, as it is asked for."""

    type: Annotated[str, _rule("type", min_length=1, max_length=200)]
    payload: Annotated[Raw, _rule("payload", extra_json_schema={"type": "object"})]
    delay_seconds: Annotated[float, _rule("delay_seconds", ge=0, le=YEAR_SECONDS)] | None = None
    run_at: Annotated[datetime, _rule("run_at", tz=True)] | None = None
    max_attempts: Annotated[int, _rule("max_attempts", ge=1, le=1_000)] | None = None
    timeout_seconds: Annotated[float, _rule("timeout_seconds", gt=0, le=YEAR_SECONDS)] | None = None
    idempotency_key: Annotated[str, _rule("idempotency_key", min_length=1, max_length=255)] | None = None

    @classmethod
    def of(cls, type: object, payload: object, **options: object) -> Submission:
        """From Python values. Raises InvalidJob, and TypeError for an option that there is not."""
        given = {"type": type, "payload": Raw(_encoded(payload)), **options}
        for name in given.keys() - RULES.keys():
            raise TypeError(f"a submission has no option {name!r}; it may have {', '.join(Options.__annotations__)}")
        if isinstance(moment := options.get("run_at"), datetime):  # of a subclass too, which msgspec does not know
            given["run_at"] = datetime.combine(moment.date(), moment.timetz())
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise explained(error, lambda field: _shown(given[field])) from error

    def job(self, job_id: bytes, now: float, settings: Settings) -> NewJob:
        """The job to store, once every bound is kept; `now` is epoch seconds. Raises InvalidJob."""
        steps = self.checking(job_id, now, settings)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                job: NewJob = end.value
                return job

    def checking(self, job_id: bytes, now: float, settings: Settings) -> Steps[NewJob]:
        """The same in steps of a few milliseconds, between which others may have their turn."""
        key, run_at, payload = self.idempotency_key, None, bytes(self.payload)
        if not self.type.isprintable():
            raise refused("type", _shown(self.type))
        if key is not None and not (key.isprintable() and 1 <= len(key) <= 255):
            raise refused("idempotency_key", _shown(key))
        if self.run_at is not None:
            if self.delay_seconds is not None:
                raise InvalidJob("run_at", "give delay_seconds or run_at, not both")
            if self.run_at.utcoffset() is None or self.run_at.timestamp() > now + 10 * YEAR_SECONDS:
                raise refused("run_at", _shown(self.run_at))
            run_at = max(self.run_at.timestamp(), 0.0)
        digest = hashlib.blake2b(b"[" + _canonical(self.type) + b",", digest_size=16) if key else None
        yield from _checking(payload, settings.max_payload_bytes, digest.update if digest else None)
        known = handlers.get(self.type)
        most = self.max_attempts or (known and known.max_attempts) or settings.max_attempts
        if digest:  # equal for equal submissions whatever their door, and whatever the order of their JSON's keys
            what = (self.delay_seconds or None, run_at, self.max_attempts, self.timeout_seconds)
            digest.update(b"," + _canonical(what)[1:])
        print_ = digest.digest() if digest else None
        return NewJob(
            job_id, self.type, payload.decode(), most, self.delay_seconds, run_at, self.timeout_seconds, key, print_
        )


class Batch(Struct, frozen=True, forbid_unknown_fields=True):
    """Jobs that are accepted together or not at all."""

    jobs: Annotated[list[Submission], _rule("jobs", min_length=1, max_length=MAX_BATCH_JOBS)]


def require_same(job: NewJob, holder: str, fingerprint: bytes | None) -> None:
    """Raises KeyReused unless the job `holder`, which has the key of `job` already, comes from an equal submission."""
    if job.fingerprint != fingerprint:
        raise KeyReused(str(job.idempotency_key), holder)


def explained(
    error: msgspec.ValidationError, shown: Callable[[str], str], known: tuple[str, ...] = (*RULES,)
) -> InvalidJob:
    """What msgspec complains of, by field, value and rule. `shown` gives the value at a path such as `jobs[3].type`."""
    reason, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    if lack := re.search(r"(unknown|missing required) field `(.*)`", reason):
        field = f"{path}.{lack[2][:100]}" if path else lack[2][:100]
        if lack[1] != "unknown":
            return InvalidJob(field, "is required")
        hint = nearest(lack[2], known)
        return InvalidJob(field, "unknown field" + (f"; did you mean {hint!r}?" if hint else ""))
    return refused(path, shown(path)) if path.rpartition(".")[2] in RULES else InvalidJob(path or "body", reason)


def refused(path: str, shown: str) -> InvalidJob:
    """The error for a value that breaks its field's rule."""
    rule = RULES[path.rpartition(".")[2]]
    return InvalidJob(path, f"must be {rule}" + (f", not {shown[:60]}" if shown else ""))


def _shown(value: object) -> str:
    value = value.isoformat() if isinstance(value, datetime) else value
    return json.dumps(value) if value is None or isinstance(value, str | int | float) else repr(value)


def _encoded(payload: object) -> bytes:
    try:
        return _dump(payload).encode()
    except (TypeError, ValueError, RecursionError) as error:
        path = "payload"
        with suppress(RecursionError):
            path = _offender(payload, path)
        raise InvalidJob(path, f"cannot be said in JSON: {error}") from error


def _offender(value: object, path: str) -> str:
    """Where the value stands that cannot be encoded, such as `payload.lines[2].price`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in inside:
        try:
            _dump(inner).encode()
        except (TypeError, ValueError, RecursionError):
            return _offender(inner, f"{path}[{name}]" if isinstance(value, list) else f"{path}.{name}")
    return path


def _finite(text: str) -> float:
    """The number. msgspec's own reading takes up to 7 µs for one near the smallest, and lets nobody in meanwhile."""
    if isinf(number := float(text)):
        raise ValueError(f"{text[:60]} is beyond every float")
    return number


_decode = msgspec.json.Decoder(float_hook=_finite).decode
_members, _items = msgspec.json.Decoder(dict[str, Raw]).decode, msgspec.json.Decoder(list[Raw]).decode


def _pieces(text: bytes) -> Iterator[bytes]:
    """The canonical form of this JSON, a little more at a time; bytes that are none in between."""
    if len(text) <= PIECE_BYTES or text[:1] not in b"{[":
        yield _canonical(_decode(text))
    elif text[:1] == b"[":
        yield b"["
        items = _items(text)
        for n in range(0, len(items), PIECE_ITEMS):
            yield b"," * (n > 0)
            yield from _run(None, items[n : n + PIECE_ITEMS])
        yield b"]"
    else:
        yield b"{"
        members, runs = _members(text), list[list[str]]()
        names = list(members)
        for n in range(0, len(names), PIECE_ITEMS):
            runs.append(sorted(names[n : n + PIECE_ITEMS]))
            yield b""
        ordered = heapq.merge(*runs)
        for n in range(0, len(names), PIECE_ITEMS):
            yield b"," * (n > 0)
            some = list(islice(ordered, PIECE_ITEMS))
            yield from _run(some, [members[name] for name in some])
        yield b"}"


def _run(names: list[str] | None, values: list[Raw]) -> Iterator[bytes]:
    """The canonical form of some items of a list, or members of an object, without its brackets."""
    text = b"[%s]" % b",".join(values)
    if len(text) <= 2 * PIECE_BYTES:
        items = _decode(text)
        yield _canonical(items if names is None else dict(zip(names, items, strict=True)))[1:-1]
        return
    for n, value in enumerate(values):
        yield b"," * (n > 0) + (b"" if names is None else _canonical(names[n]) + b":")
        yield from _pieces(bytes(value))


def _checking(payload: bytes, limit: int, hear: Callable[[bytes], object] | None) -> Steps[None]:
    """Check a payload; `hear` gets its canonical form."""
    if len(payload) > limit:
        raise PayloadTooLarge("payload", len(payload), limit, "store it elsewhere and send a reference")
    if payload[:1] != b"{":
        raise refused("payload", payload[:60].decode(errors="replace"))
    if payload.count(b"[") + payload.count(b"{") > MAX_DEPTH and (yield from _depth(payload)) > MAX_DEPTH:
        raise InvalidJob("payload", TOO_DEEP)
    try:
        if len(payload) <= PIECE_BYTES:
            content = _decode(payload)
            if hear:
                hear(_canonical(content))
        else:
            for piece in _pieces(payload):
                if hear:
                    hear(piece)
                yield
    except (ValueError, RecursionError) as error:
        raise InvalidJob("payload", f"must be {RULES['payload']} in UTF-8: {error}") from error
    if b"\\u0000" in payload and _NUL.search(payload):
        raise InvalidJob("payload", "holds the character NUL (\\u0000), which PostgreSQL cannot store; remove it")


def _depth(payload: bytes) -> Steps[int]:
    """How many levels lie below the payload's own: read from its text, as a walk takes many times as long."""
    outside = payload.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]  # of strings
    yield
    steps, deepest, level = memoryview(b"".join(outside).translate(_STEPS, _NO_STEPS)).cast("b"), 0, 0
    for at in range(0, len(steps), PIECE_BYTES):
        levels = list(accumulate(steps[at : at + PIECE_BYTES], initial=level))
        deepest, level = max(deepest, *levels), levels[-1]
        yield
    return deepest - 1
