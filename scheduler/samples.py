"""The built-in job types. A user's handler of the same name replaces one.

Their payloads are strangers' words: WEBHOOK connects to public addresses only, save SCHEDULER_WEBHOOK_HOSTS, EMAIL
writes to one address a job, and the types that fail, crash or block exist with SCHEDULER_SAMPLES=1 only.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from email.errors import MessageError
from email.message import EmailMessage
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote, urlsplit

import aiosmtplib
import httpcore
import httpx

from scheduler import settings
from scheduler.errors import ConfigurationError, Discard
from scheduler.handlers import job
from scheduler.worker.executor import JobContext

SECONDS = 10.0
ADDRESS_SECONDS = 3.0
MAX_HEAD_BYTES = 32 << 10
MAX_HEADER = 998
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNICAST, _NAT64 = ip_network("2000::/3"), ip_network("64:ff9b::/96")
# Tunnels back into IPv4, documentation, and what clouds serve to their own machines at addresses that look public.
_INWARD = [ip_network(text) for text in ("2002::/16", "3fff::/20", "192.0.0.0/24", "168.63.129.16")]


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


@job("BLOCK")
async def block(ctx: JobContext, payload: dict[str, Any]) -> None:
    """Keep the worker's event loop to itself for `seconds`, as careless handlers do."""
    time.sleep(_number(payload, "seconds", 0, 3_600))  # noqa: ASYNC251  (blocking is the point)


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
    """Send a mail from SCHEDULER_SMTP_FROM to one address by SCHEDULER_SMTP_URL; log it when that is unset."""
    config = settings.load()
    message, to = _letter(payload, config.smtp_from)
    if config.smtp_url is None:
        ctx.log.info("email to %s logged only: SCHEDULER_SMTP_URL is not set", to)
        return {"to": to, "delivery": "logged"}
    message["Message-ID"] = f"<{ctx.job_id}@scheduler>"
    await aiosmtplib.send(
        message, sender=config.smtp_from, recipients=[to], timeout=SECONDS, **_server(config.smtp_url)
    )
    return {"to": to, "delivery": "sent"}


def _letter(payload: dict[str, Any], sender: str) -> tuple[EmailMessage, str]:
    """The mail, and the one address that it goes to. Raises Discard."""
    if "from" in payload:
        raise Discard("payload.from is not taken; the sender of all mail is SCHEDULER_SMTP_FROM")
    message = EmailMessage()
    message["From"] = sender
    for name in ("to", "subject"):
        with suppress(ValueError, LookupError, MessageError):  # also what the library's parser trips over
            message[name] = text = str(payload.get(name, ""))[: MAX_HEADER + 1]
        # Looked at as it will be read: a word like =?utf-8?q?=0D=0A?= holds its line break only when decoded.
        if name not in message or len(text) > MAX_HEADER or _CONTROL.search(str(message[name])):
            raise Discard(f"payload.{name} must be text of up to {MAX_HEADER} characters without control characters")
    if len(found := message["To"].addresses) != 1 or not found[0].domain:
        raise Discard(f"payload.to must be one mail address, not {payload.get('to')!r:.100}")
    message.set_content(str(payload.get("body", "")))
    return message, found[0].addr_spec


def _server(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        user, password = (unquote(text) if text else None for text in (parts.username, parts.password))
        where: dict[str, Any] = {"hostname": parts.hostname or "127.0.0.1", "port": parts.port}
    except ValueError:  # its message may hold the password
        raise ConfigurationError("SCHEDULER_SMTP_URL is no smtp[s]://user:password@host:port") from None
    return {**where, "username": user, "password": password, "use_tls": parts.scheme == "smtps"}


@job("WEBHOOK")
async def webhook(ctx: JobContext, payload: dict[str, Any]) -> dict[str, int]:
    """POST `body` as JSON to `url`; anything but a 2xx answer within 10 s is a failure. Only its head is read."""
    request = _request(payload)
    request.headers.update({"X-Job-Id": ctx.job_id, "X-Job-Attempt": str(ctx.attempt)})
    url = request.url
    far = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    tls = _tls() if url.scheme == "https" else None
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpcore.AsyncConnectionPool(tls, network_backend=_Outward()) as pool,
            pool.stream("POST", far, headers=request.headers.raw, content=request.content) as answer,
        ):
            status = answer.status
    except TimeoutError:
        raise RuntimeError(f"{url.host} gave no answer within {SECONDS:g} s") from None
    if not 200 <= status < 300:
        raise RuntimeError(f"{url.host} answered {status}")
    return {"status": status}


def _request(payload: dict[str, Any]) -> httpx.Request:
    """Raises Discard, which does not show the URL: it may hold a password or a token."""
    headers = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "compact-job-scheduler"}
    with suppress(LookupError, TypeError, ValueError, httpx.InvalidURL):
        url = httpx.URL(payload["url"])
        request = httpx.Request("POST", url, json=payload.get("body"), headers=headers)
        if url.userinfo:
            next(httpx.BasicAuth(url.username, url.password).auth_flow(request))
        if url.scheme in {"http", "https"} and url.host:
            return request
    raise Discard("payload.url must be a URL such as https://example.com/hook")


_tls = cache(httpcore.default_ssl_context)


class _Outward(httpcore.AsyncNetworkBackend):
    """Connects to public addresses and what SCHEDULER_WEBHOOK_HOSTS names, and to no other than it looked at."""

    async def connect_tcp(self, host: str, port: int, *_: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise RuntimeError(f"{host} has no address: {error.strerror}") from error
        names = {name.lower() for name in settings.load().webhook_hosts}
        addresses = [str(entry[4][0]) for entry in found]
        fit = addresses if host in names else [each for each in addresses if may_call(each, names)]
        if not fit:
            raise Discard(f"{host} of payload.url has no public address; SCHEDULER_WEBHOOK_HOSTS may allow it")
        for address in fit:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return _Bounded(await httpcore.AnyIOBackend().connect_tcp(address, port, ADDRESS_SECONDS))
        raise RuntimeError(f"{host} cannot be connected to at port {port}")


class _Bounded(httpcore.AsyncNetworkStream):
    """Ends after so many bytes: an answer whose head never ends costs no more."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner, self._room = inner, MAX_HEAD_BYTES
        self.write, self.aclose, self.get_extra_info = inner.write, inner.aclose, inner.get_extra_info  # type: ignore[method-assign]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._room:
            raise httpcore.RemoteProtocolError(f"the head of the answer has more than {MAX_HEAD_BYTES} bytes")
        content = await self._inner.read(min(max_bytes, self._room), timeout)
        self._room -= len(content)
        return content

    async def start_tls(self, *arguments: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        return _Bounded(await self._inner.start_tls(*arguments, **options))


def may_call(address: str, allowed: Collection[str] = ()) -> bool:
    """Whether this is an address of the public internet, also behind its mapping into IPv6, or an allowed one."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip)
    is_inward = any(ip in network for network in _INWARD) or (ip.version == 6 and ip not in _UNICAST)
    return str(ip) in allowed or (ip.is_global and not ip.is_multicast and not is_inward)


def _number(payload: dict[str, Any], name: str, low: float, high: float) -> float:
    value = payload.get(name, low)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Discard(f"payload.{name} must be a number from {low:g} to {high:g}, not {value!r}")
    return float(value)
