"""Errors as application/problem+json (RFC 9457), in one form for both HTTP paths."""

from __future__ import annotations

from http import HTTPStatus
from math import ceil

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from scheduler.errors import InvalidJob, SchedulerError, StoreUnavailable
from scheduler.facts.facts import REQUEST_FAILED, tell

MEDIA_TYPE = "application/problem+json"


def from_error(error: Exception, method: str, path: str) -> Response:
    """The answer for whatever a request ended in; what nobody foresaw is told."""
    match error:
        case HTTPException():
            detail = f"{method} {path}: {error.detail}"
            return _problem(error.status_code, str(error.detail), detail, dict(error.headers or {}))
        case RequestValidationError():
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"] if part not in ("query", "path"))
            return from_error(InvalidJob(place, first["msg"]), method, path)
        case SchedulerError():
            headers = {} if error.retry_after_seconds is None else {"retry-after": str(ceil(error.retry_after_seconds))}
            if error.status == 401:
                headers["www-authenticate"] = "Bearer"
            field, detail = {"field": error.field} if isinstance(error, InvalidJob) else {}, str(error)
            if isinstance(error, StoreUnavailable):  # why may name addresses and users: that is for the log
                detail = detail.replace(f" ({error.reason})", "", 1)
            return _problem(error.status, error.title, detail, headers, **field)
    tell(REQUEST_FAILED, path=path, trace=error)
    return from_error(SchedulerError("the server failed; its log says why"), method, path)


def _problem(status: int, title: str, detail: str, headers: dict[str, str], **more: str) -> Response:
    members = {"title": title, "detail": detail, **more}
    shown = {name: text.encode("utf-8", "backslashreplace").decode() for name, text in members.items()}
    body = msgspec.json.encode({"type": "about:blank", "status": status, **shown})
    return Response(body, status, headers, MEDIA_TYPE)


def raw_problem(status: int, detail: str) -> bytes:
    """The answer to what is no request, head and all; the connection ends with it."""
    phrase = HTTPStatus(status).phrase
    answer = _problem(status, phrase, detail, {"connection": "close"})
    head = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, phrase.encode(), head, answer.body)
