"""What travels over HTTP: how a submission is read from JSON (the hot path), and the answers' shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from pydantic import BaseModel, ConfigDict, Field

from scheduler.errors import InvalidJob
from scheduler.submission.submission import TOO_DEEP, YEAR_SECONDS, Batch, Submission, explained

Read = TypeVar("Read")
SHOWN_BYTES = 1 << 20

_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_decode_job = msgspec.json.Decoder(Submission).decode
_decode_batch = msgspec.json.Decoder(Batch).decode


def read_job(body: bytes) -> Submission:
    """Raises InvalidJob naming the field, or the byte where the body is no JSON."""
    return _read(_decode_job, body, "payload", dict[str, Raw])


def read_batch(body: bytes) -> list[Submission]:
    """The same for the body of POST /jobs/batch."""
    return _read(_decode_batch, body, "jobs", dict[str, list[dict[str, Raw]]]).jobs


def _read(decode: Callable[[bytes], Read], body: bytes, deepest: str, shape: Any) -> Read:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise explained(error, lambda path: _sent(body, shape, path)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJob("body", f"not readable as JSON in UTF-8 at {_place(error, body)}") from error
    except RecursionError as error:
        raise InvalidJob(deepest, TOO_DEEP) from error


def _sent(body: bytes, shape: Any, path: str) -> str:
    """The JSON text of the value at `path`; none if the body is large, or unreadable behind it."""
    try:
        found = msgspec.json.decode(body if len(body) <= SHOWN_BYTES else b"", type=shape)
        for step in re.findall(r"\w+", path):
            found = found[int(step) if step.isdigit() else step]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError):
        return ""
    return bytes(found).decode(errors="replace") if isinstance(found, Raw) else ""


def _place(error: Exception, body: bytes) -> str:
    """The byte where an unreadable body breaks, and how."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {body.find(error.object) + error.start}: {error.reason}"
    found = re.fullmatch(r"(.*) \(byte (\d+)\)", str(error))
    reason, at = (found[1], int(found[2])) if found else (str(error), len(body))
    if lone := _LONE_SURROGATE.search(body, max(0, at - 16), at + 16):
        return f"byte {lone.start()}: lone surrogate {lone[0].decode()}"
    return f"byte {at}: {reason}"


class SubmittedJob(Struct):
    """The answer to POST /jobs."""

    id: str
    status: str
    type: str
    max_attempts: int


class SubmittedBatch(Struct):
    """The answer to POST /jobs/batch: ids in the order of the jobs."""

    ids: list[str]


class Problem(Struct, kw_only=True):
    """RFC 9457."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None


class Selection(BaseModel):
    """Which dead letters: by ids, or by type, words of the error, and age. All given conditions must hold."""

    model_config = ConfigDict(extra="forbid")
    ids: list[str] | None = Field(None, max_length=10_000)
    type: str | None = Field(None, max_length=200)
    error: str | None = Field(None, max_length=1_000, description="part of the error text, whatever its case")
    older_than_seconds: float | None = Field(None, ge=0, le=10 * YEAR_SECONDS)
    limit: int = Field(10_000, ge=1, le=10_000)
    dry_run: bool = Field(False, description="only say which would be taken")


class Redrive(Selection):
    """Which dead letters, and how fast."""

    rate: float | None = Field(None, gt=0, le=100_000, description="jobs per second; all at once when not given")


class Selected(BaseModel):
    """The ids that were taken, or would be."""

    ids: list[str]
    dry_run: bool
