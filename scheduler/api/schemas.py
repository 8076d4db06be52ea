"""What travels over HTTP: the strict reading of submissions (msgspec, the hot path) and the answers' shapes."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw, Struct
from pydantic import BaseModel, ConfigDict, Field

from scheduler.errors import InvalidJob, PayloadTooLarge, nearest
from scheduler.jobs.job import NewJob, fingerprint

MAX_DEPTH = 100
MAX_BATCH_JOBS = 10_000
MAX_SCANNED_BYTES = 2 << 20
ONE_YEAR_SECONDS = 366 * 86_400

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:]', re.DOTALL)
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..)",
    re.DOTALL,
)

Delay = Annotated[float, Meta(ge=0, le=ONE_YEAR_SECONDS)]
Timeout = Annotated[float, Meta(gt=0, le=ONE_YEAR_SECONDS)]
Attempts = Annotated[int, Meta(ge=1, le=1_000)]
Key = Annotated[str, Meta(min_length=1, max_length=255)]


class JobBody(Struct, forbid_unknown_fields=True):
    type: Annotated[str, Meta(min_length=1, max_length=200)]
    payload: Raw
    delay_seconds: Delay | None = None
    run_at: datetime | None = None
    max_attempts: Attempts | None = None
    timeout_seconds: Timeout | None = None
    idempotency_key: Key | None = None


class BatchBody(Struct, forbid_unknown_fields=True):
    jobs: list[JobBody]


_decode_job = msgspec.json.Decoder(JobBody).decode
_decode_batch = msgspec.json.Decoder(BatchBody).decode
_decode_payload = msgspec.json.Decoder(dict[str, Any]).decode


def read_job(body: bytes) -> JobBody:
    """Raises InvalidJob naming the field."""
    decoded: JobBody = _decode(_decode_job, body)
    return decoded


def read_batch(body: bytes) -> list[JobBody]:
    """Raises InvalidJob for a wrong body, an empty list or one of more than MAX_BATCH_JOBS."""
    jobs: list[JobBody] = _decode(_decode_batch, body).jobs
    if not 1 <= len(jobs) <= MAX_BATCH_JOBS:
        raise InvalidJob("jobs", f"1 to {MAX_BATCH_JOBS} jobs are taken at once, not {len(jobs)}; send several batches")
    return jobs


def _decode(decode: Any, body: bytes, field: str = "body") -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        lone = _LONE_SURROGATE.search(body)
        reason = f"holds the lone surrogate {lone[0].decode()}" if lone else f"not readable as JSON in UTF-8: {error}"
        stop = lone.start() if lone else _position(error)
        raise InvalidJob(_field_at(body, stop) or field, reason) from error
    except RecursionError as error:
        reason = f"nested too deeply; {MAX_DEPTH} levels are allowed"
        raise InvalidJob(_field_at(body, len(body)) or field, reason) from error


def _position(error: Exception) -> int:
    """The byte that a decoder complains of; 0 where it does not say."""
    if isinstance(error, UnicodeDecodeError):
        return error.start
    found = re.search(r"\(byte (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _field_at(body: bytes, stop: int) -> str | None:
    """The top-level field in which an unreadable body breaks: at byte `stop`, or where it is nested too deeply."""
    depth, last, field = 0, b"", None
    for token in _TOKEN.finditer(body, 0, min(stop, MAX_SCANNED_BYTES)):
        text = token[0]
        if text in b"{[":
            depth += 1
        elif text in b"}]":
            depth -= 1
        elif text == b":" and depth == 1:
            field = last.strip(b'"').decode("utf-8", "replace")[:100]
        last = text
        if depth > MAX_DEPTH:
            break
    return field


def _invalid(message: str) -> InvalidJob:
    reason, _, path = message.partition(" - at `$")
    field = path.rstrip("`").lstrip(".") or "body"
    if unknown := re.search(r"unknown field `(.*)`", reason):
        known = BatchBody.__struct_fields__ if field == "body" and unknown[1] == "job" else JobBody.__struct_fields__
        hint = nearest(unknown[1], known)
        return InvalidJob(unknown[1][:100], "unknown field" + (f"; did you mean {hint!r}?" if hint else ""))
    if missing := re.search(r"missing required field `(.*)`", reason):
        return InvalidJob(missing[1] if field == "body" else f"{field}.{missing[1]}", "is required")
    return InvalidJob(field, reason)


def new_job(
    body: JobBody,
    job_id: bytes,
    *,
    max_attempts: int,
    max_payload_bytes: int,
    prefix: str = "",
    header_key: str | None = None,
) -> NewJob:
    """Check what msgspec cannot, and make the value to store. `prefix` is the path of this job in its batch."""
    payload, decoded = _payload(bytes(body.payload), prefix + "payload", max_payload_bytes)
    key = _key(body.idempotency_key, header_key, prefix)
    if body.delay_seconds is not None and body.run_at is not None:
        raise InvalidJob(prefix + "run_at", "give delay_seconds or run_at, not both")
    run_at = None if body.run_at is None else _epoch(body.run_at, prefix + "run_at")
    return NewJob(
        id=job_id,
        type=body.type,
        payload=payload,
        max_attempts=body.max_attempts or max_attempts,
        delay_seconds=body.delay_seconds,
        run_at=run_at,
        timeout_seconds=body.timeout_seconds,
        idempotency_key=key,
        fingerprint=_fingerprint(body, decoded, run_at) if key else None,
    )


def _fingerprint(body: JobBody, payload: dict[str, Any], run_at: float | None) -> bytes:
    return fingerprint(
        body.type,
        payload,
        delay_seconds=body.delay_seconds,
        run_at=run_at,
        max_attempts=body.max_attempts,
        timeout_seconds=body.timeout_seconds,
    )


def _payload(raw: bytes, field: str, limit: int) -> tuple[str, dict[str, Any]]:
    if len(raw) > limit:
        raise PayloadTooLarge(field, len(raw), limit, "store it elsewhere and send a reference")
    try:
        decoded: dict[str, Any] = _decode(_decode_payload, raw, field)
    except InvalidJob as error:
        raise InvalidJob(field, error.reason) from error
    if b"\\u0000" in raw and _holds_nul(decoded):
        raise InvalidJob(field, "holds the character NUL (\\u0000), which PostgreSQL cannot store; remove it")
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _depth(decoded) > MAX_DEPTH:
        raise InvalidJob(field, f"nested too deeply; {MAX_DEPTH} levels are allowed")
    return raw.decode(), decoded


def _key(own: str | None, header: str | None, prefix: str) -> str | None:
    if own and header and own != header:
        raise InvalidJob(prefix + "idempotency_key", "differs from the Idempotency-Key header; send one of them")
    key = own or header
    if key and ("\x00" in key or not key.isprintable() or len(key) > 255):
        raise InvalidJob(prefix + "idempotency_key", "must be 1 to 255 printable characters")
    return key


def _epoch(moment: datetime, field: str) -> float:
    if moment.tzinfo is None:
        raise InvalidJob(field, "must carry a UTC offset, as in 2030-01-31T12:00:00Z (RFC 3339)")
    seconds = moment.timestamp()
    if seconds > datetime.now(UTC).timestamp() + 10 * ONE_YEAR_SECONDS:
        raise InvalidJob(field, "lies more than ten years ahead")
    return max(seconds, 0.0)


def _children(value: Any) -> list[Any]:
    return [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def _holds_nul(value: Any) -> bool:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str) and "\x00" in item:
            return True
        waiting.extend(_children(item))
    return False


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [child for item in level for child in _children(item)]:
        depth += 1
    return depth


class SubmittedJob(BaseModel):
    id: str
    status: str
    type: str
    max_attempts: int


class SubmittedBatch(BaseModel):
    ids: list[str]


class NewJobBody(BaseModel):
    """Documentation of what `JobBody` reads."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"type": "NOOP", "payload": {}}})
    type: str = Field(min_length=1, max_length=200)
    payload: dict[str, Any]
    delay_seconds: float | None = Field(None, ge=0, le=ONE_YEAR_SECONDS, description="seconds from now")
    run_at: datetime | None = Field(None, description="RFC 3339 with offset; a past time means now")
    max_attempts: int | None = Field(None, ge=1, le=1_000)
    timeout_seconds: float | None = Field(None, gt=0, le=ONE_YEAR_SECONDS)
    idempotency_key: str | None = Field(None, min_length=1, max_length=255)


class NewBatchBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    jobs: list[NewJobBody] = Field(min_length=1, max_length=MAX_BATCH_JOBS)


class Selection(BaseModel):
    """Which dead letters: by ids, or by type, words of the error, and age. All given conditions must hold."""

    model_config = ConfigDict(extra="forbid")
    ids: list[str] | None = Field(None, max_length=10_000)
    type: str | None = Field(None, max_length=200)
    error: str | None = Field(None, max_length=1_000, description="part of the error text, whatever its case")
    older_than_seconds: float | None = Field(None, ge=0, le=10 * ONE_YEAR_SECONDS)
    limit: int = Field(10_000, ge=1, le=10_000)
    dry_run: bool = Field(False, description="only say which would be taken")


class Redrive(Selection):
    rate: float | None = Field(None, gt=0, le=100_000, description="jobs per second; all at once when not given")


class Selected(BaseModel):
    ids: list[str]
    dry_run: bool


class Problem(BaseModel):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None
