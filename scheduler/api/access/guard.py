"""What stands before every request is read: its host, the page it comes from, its key, its role, its content type.

This is the only reader of these headers, for both HTTP paths. Who was admitted once is known again by the same values.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from math import ceil

from starlette.types import Scope

from scheduler.api import docs
from scheduler.api.access.audit import Audit, address
from scheduler.api.access.keys import Caller, Keys
from scheduler.errors import Denied
from scheduler.settings import EVERYWHERE, LOOPBACK, Settings
from scheduler.storage.store import Store

Headers = dict[bytes, bytes]
Seen = tuple[bytes | None, ...]

OPEN_PATHS = docs.OPEN_PATHS | {"/healthz", "/readyz"}
ONCE = (b"host", b"authorization", b"content-type", b"content-length", b"origin", b"sec-fetch-site", b"idempotency-key")
BURST = 100
WINDOW_SECONDS = 10.0
MAX_ADDRESSES = 10_000

_JSON = re.compile(rb'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)
_LINK = {b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"document"}


class Guard:
    """Lets requests in, or not."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.keys, self.audit = Keys(settings, store), Audit(store, settings.retention_seconds)
        self._failed, self._until = Counter[str](), 0.0
        named = [*LOOPBACK, *settings.hosts, *([] if settings.host in EVERYWHERE else [settings.host])]
        self._hosts = {_name(f"[{host}]" if host.count(":") > 1 else host) for host in named}

    async def check(self, scope: Scope, headers: Headers) -> None:
        """Let the request in and put who sends it in `scope["caller"]`: None for a stranger on one of OPEN_PATHS.

        `headers` are those of the scope. Raises Denied, and StoreUnavailable before keys could be read.
        """
        get, path = headers.get, scope["path"]
        if path in OPEN_PATHS:
            scope["caller"] = self.keys.holder(get(b"authorization"))
            return
        is_bare = get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        kind = None if is_bare else get(b"content-type", b"")
        seen = get(b"host"), get(b"authorization"), get(b"origin"), get(b"sec-fetch-site"), kind
        caller = None if len(headers) < len(scope["headers"]) else self.keys.admitted.get(seen)
        try:
            if caller is None:
                caller = await self._admit(scope, headers, seen)
            caller.require(scope["method"], path)
        except Denied as error:
            self.audit.refused(scope, caller.name if caller else "", error)
            raise
        scope["caller"] = caller

    async def _admit(self, scope: Scope, headers: Headers, seen: Seen) -> Caller:
        host, authorization, origin, site, kind = seen
        names = [name for name, _ in scope["headers"]]
        if twice := [name.decode() for name in ONCE if names.count(name) > 1]:
            raise Denied(400, f"the header {twice[0]} came twice; send it once")
        if not host:
            raise Denied(400, "there is no Host header; send one that is a loopback name, or in SCHEDULER_HOSTS")
        if _name(host.decode("latin-1")) not in self._hosts:
            raise Denied(421, f"Host {_shown(host)} is not known; name it in SCHEDULER_HOSTS, or ask for localhost")
        if origin and origin.lower().partition(b"://")[2] != host.lower():
            raise Denied(403, f"Origin {_shown(origin)} is another site's; only pages of this host may ask")
        is_link = scope["method"] == "GET" and _LINK.items() <= headers.items()
        if site and site.lower() == b"cross-site" and not is_link:
            raise Denied(403, "Sec-Fetch-Site says cross-site; only pages of this host may ask")
        if (caller := await self.keys.caller(authorization)) is None:
            if wait := self._wait(address(scope)):
                raise Denied(429, "too many requests without a valid key came from this address", wait)
            raise Denied(401, "send `Authorization: Bearer KEY`, a key of `scheduler keys add` or SCHEDULER_API_KEYS")
        if kind is not None and not _JSON.fullmatch(kind.strip()):
            raise Denied(415, f"Content-Type {_shown(kind)} is not taken; send a body as application/json")
        if site is None:
            self.keys.admit(seen, caller)
        return caller

    def _wait(self, sender: str) -> int:
        """Count a request without a valid key. Returns 0, or how many seconds it came too early."""
        now = time.monotonic()
        if now >= self._until or len(self._failed) >= MAX_ADDRESSES:
            self._failed.clear()
            self._until = now + WINDOW_SECONDS
        self._failed[sender] += 1
        return ceil(self._until - now) if self._failed[sender] > BURST else 0


def _name(host: str) -> str:
    """A host without its port, in one spelling."""
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


def _shown(value: bytes) -> str:
    return repr(value[:100].decode("latin-1"))
