"""What travels over HTTP: how a body is read from JSON, and the shapes of selections and answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct
from starlette.responses import Response

from scheduler.errors import InvalidJob, PayloadTooLarge
from scheduler.submission.submission import (
    MAX_BATCH_JOBS,
    PIECE_BYTES,
    RULES,
    TOO_DEEP,
    YEAR_SECONDS,
    Batch,
    Steps,
    Submission,
    explained,
    refused,
)

Read = TypeVar("Read")
SHOWN_BYTES = 1 << 20

_OPENING = re.compile(rb'\s{0,999}\{\s{0,999}"jobs"\s{0,999}:\s{0,999}\[\s{0,999}')
_NEXT = re.compile(rb"\s{0,999}(?:(,)\s{0,999}|\]\s{0,999}\}\s{0,999}\Z)")
_LONE_SURROGATE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def reader(shape: type[Read], deepest: str = "body", known: tuple[str, ...] = (*RULES,)) -> Callable[[bytes], Read]:
    """Reads bodies of this shape. Raises InvalidJob naming the field, or the byte where the body is no JSON;
    `deepest` is the field that may be nested too deeply, `known` the fields to suggest for an unknown one.
    """
    decode = msgspec.json.Decoder(shape).decode

    def read(body: bytes) -> Read:
        try:
            return decode(body)
        except msgspec.ValidationError as error:
            raise explained(error, lambda path: _sent(body, path), known) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidJob("body", f"not readable as JSON in UTF-8 at {_place(error, body)}") from error
        except RecursionError as error:
            raise InvalidJob(deepest, TOO_DEEP) from error

    return read


def as_json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer with `content`, a struct or what else msgspec knows."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def _sent(body: bytes, path: str) -> str:
    """The JSON text of the value at `path`; none if the body is large, or unreadable behind it."""
    found = Raw(body if len(body) <= SHOWN_BYTES else b"")
    try:
        for step in re.findall(r"\w+", path):
            if step.isdigit():
                found = msgspec.json.decode(found, type=list[Raw])[int(step)]
            else:
                found = msgspec.json.decode(found, type=dict[str, Raw])[step]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError):
        return ""
    return bytes(found).decode(errors="replace")


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


class Selection(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which dead letters: by ids, or by type, words of the error, and age. All given conditions must hold."""

    ids: Annotated[list[str], Meta(max_length=10_000)] | None = None
    type: Annotated[str, Meta(max_length=200)] | None = None
    error: Annotated[str, Meta(max_length=1_000, description="part of the error text, whatever its case")] | None = None
    older_than_seconds: Annotated[float, Meta(ge=0, le=10 * YEAR_SECONDS)] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 10_000
    dry_run: Annotated[bool, Meta(description="only say which would be taken")] = False


class Redrive(Selection, kw_only=True, frozen=True):
    """Which dead letters, and how fast."""

    rate: Annotated[float, Meta(ge=0.001, le=100_000, description="jobs per second; else all at once")] | None = None


class Selected(Struct):
    """The ids that were taken, or would be."""

    ids: list[str]
    dry_run: bool


read_job, _read_batch = reader(Submission, "payload"), reader(Batch, "jobs")


def reading_batch(body: bytes, job_bytes: int) -> Steps[list[Submission]]:
    """The jobs of a batch, each of `job_bytes` at most. A large body is read job by job, so that others get on."""
    if len(body) <= PIECE_BYTES:
        return _read_batch(body).jobs
    jobs: list[Submission] = []
    following = _OPENING.match(body)
    if following is None:
        raise InvalidJob("body", f'must begin with {{"jobs":[ when it has more than {PIECE_BYTES} bytes')
    while len(jobs) < MAX_BATCH_JOBS:
        at, path = following.end(), f"jobs[{len(jobs)}]"
        if not (end := _end(body, at, at + job_bytes)):
            raise PayloadTooLarge(path, len(body) - at, job_bytes, "store its payload elsewhere and send a reference")
        try:
            jobs.append(read_job(body[at:end]))
        except InvalidJob as error:
            raise InvalidJob(f"{path}.{error.field}".removesuffix(".body"), error.reason) from error
        following = _NEXT.match(body, end)
        if following is None:
            raise InvalidJob("body", f"not readable as JSON at byte {end}, behind {path}")
        if not following[1]:
            return jobs
        yield
    raise refused("jobs", "")


def _end(body: bytes, at: int, most: int) -> int:
    """Where the JSON value that begins at `at` ends, with the blanks behind it; 0: not before `most`."""
    try:
        msgspec.json.decode(memoryview(body)[at:most], type=Raw)
    except (ValueError, RecursionError) as error:
        if found := re.search(r"trailing characters \(byte (\d+)\)", str(error)):
            return at + int(found[1]) - 1
        if most < len(body) and "truncated" in str(error):
            return 0
    return min(most, len(body))


read_selection = reader(Selection, known=Selection.__struct_fields__)
read_redrive = reader(Redrive, known=Redrive.__struct_fields__)
