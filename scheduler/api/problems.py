"""Errors as application/problem+json (RFC 9457), in one form for both HTTP paths."""

from __future__ import annotations

from math import ceil
from typing import Any

import msgspec

from scheduler.errors import SchedulerError

MEDIA_TYPE = "application/problem+json"


def problem(status: int, title: str, detail: str, **more: Any) -> dict[str, Any]:
    """The members of a problem document."""
    return {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}


def from_error(error: SchedulerError) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and extra headers for an error of ours."""
    field = getattr(error, "field", None)
    body = problem(error.status, error.title, printable(str(error)), **({"field": printable(field)} if field else {}))
    headers = {"content-type": MEDIA_TYPE}
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(ceil(error.retry_after_seconds))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return error.status, msgspec.json.encode(body), headers


def printable(text: str) -> str:
    """`text` without lone surrogates, which no UTF-8 answer can carry."""
    return text.encode("utf-8", "backslashreplace").decode()
