"""The one wrapper of toxiproxy-python: every call has a deadline, results are typed, and every fault heals.

The library keeps host and port on a class shared by all clients, knows no timeout, no PATCH and no toxic
update, and lets a 500 through as data. Here each client owns a consumer class of its own and adds what is
missing. Nothing else imports the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec
import requests
from toxiproxy.api import APIConsumer, validate_response
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists

from chaos.errors import ToxiproxyHung, ToxiproxyRefused, ToxiproxyUnreachable

Stream = Literal["upstream", "downstream"]
Method = Literal["get", "post", "patch", "delete"]
Answer = TypeVar("Answer")

REFUSALS = {InvalidToxic: 400, NotFound: 404, ProxyExists: 409}
DIRECT: dict[str, None] = {"http": None, "all": None}  # HTTP_PROXY and its kin are not for the control port


class Toxic(msgspec.Struct, frozen=True):
    """One disturbance of one direction of a link. Toxicity stays 1: the server's dice take no seed."""

    type: str
    stream: Stream
    attributes: dict[str, int] = {}
    name: str = ""
    toxicity: float = 1.0

    @property
    def label(self) -> str:
        """The name the server knows it by; unique on a proxy across both directions."""
        return self.name or f"{self.type}_{self.stream}"


class Proxy(msgspec.Struct, frozen=True):
    """One link as the server describes it; `listen` and `upstream` are `host:port`."""

    name: str
    listen: str
    upstream: str
    enabled: bool
    toxics: tuple[Toxic, ...] = ()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.listen.rpartition(":")[2])

    @property
    def is_healthy(self) -> bool:
        """Whether it passes everything on, unchanged."""
        return self.enabled and not self.toxics


class _Consumer(APIConsumer):  # type: ignore[misc]  # the library has no types
    """The library's consumer plus PATCH; subclassed once a client, so that no address leaks to another."""

    @classmethod
    def patch(cls, url: str, **options: Any) -> Any:
        return validate_response(requests.patch(f"http://{cls.host}:{cls.port}{url}", **options))  # noqa: S113


class Toxiproxy:
    """A client of one server. Every method raises ToxiproxyError and returns within `deadline_seconds`."""

    def __init__(self, host: str = "127.0.0.1", port: int = 8474, deadline_seconds: float = 5.0) -> None:
        self.address = f"{host}:{port}"
        self.deadline_seconds = deadline_seconds
        self._consumer: Any = type("Consumer", (_Consumer,), {"host": host, "port": port})
        self._declared: dict[str, Proxy] = {}

    def version(self) -> str:
        """As the server reports it: `git` in a build by the Go tool."""
        return self._call("get", "/version", dict[str, str]).get("version", "unknown")

    def proxies(self) -> dict[str, Proxy]:
        """All that the server has, by name."""
        return self._call("get", "/proxies", dict[str, Proxy])

    def proxy(self, name: str) -> Proxy:
        """One of them. Raises ToxiproxyRefused when there is none."""
        return self._call("get", _path(name), Proxy)

    def create(self, name: str, upstream: str, listen: str = "127.0.0.1:0") -> Proxy:
        """A healthy link, in place of one of the same name. A name with a slash cannot be routed."""
        if name in self.proxies():
            self.delete(name)
        body = {"name": name, "upstream": upstream, "listen": listen, "enabled": True}
        self._declared[name] = self._call("post", "/proxies", Proxy, json=body)
        return self._declared[name]

    def delete(self, name: str) -> None:
        """Take a proxy away; one that is not there is no error."""
        self._send("delete", _path(name))
        self._declared.pop(name, None)

    def patch(self, name: str, *, enabled: bool | None = None, upstream: str | None = None) -> Proxy:
        """Change a link in place. Disabling cuts its connections; a new upstream does too."""
        wanted = {"enabled": enabled, "upstream": upstream}
        body = {key: value for key, value in wanted.items() if value is not None}
        return self._call("patch", _path(name), Proxy, json=body)

    def add_toxic(self, proxy: str, toxic: Toxic) -> Toxic:
        """Disturb one direction of a link."""
        return self._call("post", f"{_path(proxy)}/toxics", Toxic, json=_body(toxic))

    def update_toxic(self, proxy: str, toxic: Toxic) -> Toxic:
        """Change attributes of a live toxic, for ramps; its type and direction are fixed."""
        body = {"attributes": toxic.attributes, "toxicity": toxic.toxicity}
        return self._call("patch", _path(proxy, toxic.label), Toxic, json=body)

    def toxic(self, proxy: str, label: str) -> Toxic:
        """A disturbance while the block runs."""
        return self._call("get", _path(proxy, label), Toxic)

    def remove_toxic(self, proxy: str, label: str) -> None:
        """Removing one that is gone already is no error: healing must be repeatable."""
        try:
            self._send("delete", _path(proxy, label))
        except ToxiproxyRefused as refused:
            if refused.status != 404:
                raise

    @contextmanager
    def poisoned(self, proxy: str, *toxics: Toxic) -> Iterator[None]:
        """The toxics act inside the block and are removed after it, whatever happens in it."""
        try:
            for toxic in toxics:
                self.add_toxic(proxy, toxic)
            yield
        finally:
            for toxic in toxics:
                self.remove_toxic(proxy, toxic.label)

    @contextmanager
    def down(self, proxy: str) -> Iterator[None]:
        """The link refuses connections inside the block; after it the link is as it was before."""
        was_enabled = self.proxy(proxy).enabled
        try:
            self.patch(proxy, enabled=False)
            yield
        finally:
            self.patch(proxy, enabled=was_enabled)

    def sweep(self) -> tuple[str, ...]:
        """Heal everything, repointed links too (the server's reset leaves those). Returns what was ill."""
        found = self.proxies()
        moved = {n: p for n, p in self._declared.items() if n in found and found[n].upstream != p.upstream}
        self._send("post", "/reset")
        for name, declared in moved.items():
            self.patch(name, upstream=declared.upstream)
        still = [name for name, proxy in self.proxies().items() if not proxy.is_healthy]
        if still:
            raise ToxiproxyRefused("POST /reset", 200, f"{still} stayed broken; restart the server")
        return tuple(sorted({name for name, proxy in found.items() if not proxy.is_healthy} | set(moved)))

    def _call(self, method: Method, path: str, shape: type[Answer], **body: Any) -> Answer:
        content = self._send(method, path, **body)
        try:
            return msgspec.json.decode(content, type=shape)
        except msgspec.DecodeError as error:
            call = f"{method.upper()} {path}"
            raise ToxiproxyRefused(call, 200, f"unreadable answer {content[:200]!r}") from error

    def _send(self, method: Method, path: str, **body: Any) -> bytes:
        call = f"{method.upper()} {path}"
        try:
            send = getattr(self._consumer, method)
            answer = send(path, timeout=self.deadline_seconds, proxies=DIRECT, **body)
        except requests.Timeout as error:
            raise ToxiproxyHung(call, self.deadline_seconds) from error
        except requests.RequestException as error:
            raise ToxiproxyUnreachable(self.address, type(error).__name__) from error
        except tuple(REFUSALS) as error:
            raise ToxiproxyRefused(call, REFUSALS[type(error)], _text(error.args[0])) from error
        if answer.status_code >= 400:
            raise ToxiproxyRefused(call, answer.status_code, _text(answer.content))
        return bytes(answer.content)


def _path(proxy: str, toxic: str | None = None) -> str:
    path = f"/proxies/{quote(proxy, safe='')}"
    return path if toxic is None else f"{path}/toxics/{quote(toxic, safe='')}"


def _body(toxic: Toxic) -> dict[str, Any]:
    return {**msgspec.to_builtins(toxic), "name": toxic.label}


def _text(message: bytes | str) -> str:
    return (message.decode(errors="replace") if isinstance(message, bytes) else message).strip()[:500]
