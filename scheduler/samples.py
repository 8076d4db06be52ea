"""The built-in job types. A user's handler of the same name replaces one."""

from __future__ import annotations

import asyncio
import os
import signal
from email.message import EmailMessage
from typing import Any
from urllib.parse import unquote, urlsplit

import aiosmtplib
import httpx

from scheduler import settings
from scheduler.errors import Discard
from scheduler.handlers import job
from scheduler.worker.executor import JobContext

_HTTP_SECONDS = 10.0


@job("NOOP")
async def noop(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Do nothing."""


@job("SLEEP")
async def sleep(ctx: JobContext, payload: dict[str, Any]) -> dict[str, float]:
    """Sleep `seconds`; give up early when cancelled."""
    seconds = _number(payload, "seconds", 0, 86_400)
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while not ctx.cancelled and (left := end - clock()) > 0:
        await asyncio.sleep(min(left, 0.25))
    return {"slept_seconds": round(seconds - max(0.0, end - clock()), 3)}


@job("FLAKY")
async def flaky(ctx: JobContext, payload: dict[str, Any]) -> dict[str, int]:
    """Fail the first `failures` attempts, then succeed."""
    failures = _number(payload, "failures", 0, 1_000)
    if ctx.attempt <= failures:
        raise RuntimeError(f"failing on purpose: attempt {ctx.attempt} of {failures:g} to fail")
    return {"attempts": ctx.attempt}


@job("FAIL")
async def fail(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Fail every attempt."""
    raise RuntimeError(str(payload.get("message", "failing on purpose")))


@job("CRASH")
async def crash(ctx: JobContext, payload: dict[str, Any]) -> None:
    """SIGKILL the worker process that runs this."""
    os.kill(os.getpid(), signal.SIGKILL)


@job("EMAIL")
async def email(ctx: JobContext, payload: dict[str, Any]) -> dict[str, str]:
    """Send a mail by SCHEDULER_SMTP_URL (smtp://[user:password@]host:port, smtps://…); log it when that is unset."""
    to = payload.get("to")
    if not isinstance(to, str) or "@" not in to:
        raise Discard(f"payload.to must be a mail address, not {to!r}")
    url = settings.load().smtp_url
    if url is None:
        ctx.log.info("email to %s logged only: SCHEDULER_SMTP_URL is not set", to)
        return {"to": to, "delivery": "logged"}
    message = EmailMessage()
    message["From"], message["To"] = str(payload.get("from", "scheduler@localhost")), to
    message["Subject"] = str(payload.get("subject", ""))
    message["Message-ID"] = f"<{ctx.job_id}@scheduler>"
    message.set_content(str(payload.get("body", "")))
    await _send(message, url)
    return {"to": to, "delivery": "sent"}


async def _send(message: EmailMessage, url: str) -> None:
    parts = urlsplit(url)
    await aiosmtplib.send(
        message,
        hostname=parts.hostname or "127.0.0.1",
        port=parts.port,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        use_tls=parts.scheme == "smtps",
        timeout=_HTTP_SECONDS,
    )


@job("WEBHOOK")
async def webhook(ctx: JobContext, payload: dict[str, Any]) -> dict[str, int]:
    """POST `body` as JSON to `url`; anything but a 2xx answer is a failure."""
    url = payload.get("url")
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise Discard(f"payload.url must be an http(s) URL, not {url!r}")
    headers = {"X-Job-Id": ctx.job_id, "X-Job-Attempt": str(ctx.attempt)}
    async with httpx.AsyncClient(timeout=_HTTP_SECONDS, trust_env=False) as http:
        answer = await http.post(url, json=payload.get("body"), headers=headers)
    if not answer.is_success:
        raise RuntimeError(f"{url} answered {answer.status_code}")
    return {"status": answer.status_code}


def _number(payload: dict[str, Any], name: str, low: float, high: float) -> float:
    value = payload.get(name, low)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Discard(f"payload.{name} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)
