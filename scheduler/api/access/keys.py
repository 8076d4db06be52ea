"""Which keys there are and what each may do: those of SCHEDULER_API_KEYS, and those in PostgreSQL, read each second.

Kept and compared is SHA-256 of a key, without salt or stretching: these slow down guessing what people choose, and a
key of `scheduler keys add` has 256 random bits, which nobody guesses at any speed. To look a hash up in a table tells
nothing by the time it takes: whoever sends a key cannot choose its hash.
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import sha256

from msgspec import Struct

from scheduler.errors import ConfigurationError, Denied
from scheduler.service import Service
from scheduler.settings import Settings
from scheduler.storage.store import Store

PERIOD_SECONDS = 1.0
SHORTEST = 16  # characters of a key in clear, where others than this machine can try it
MAX_ADMITTED = 1_000  # requests, and bytes of their headers

_ENTRY = re.compile(
    r"(?:(?P<name>[\w.-]{1,100}):(?P<role>\w+):)?(?:sha256=(?P<hash>[0-9a-f]{64})|(?P<key>(?!sha256=)[^:]+))",
    re.ASCII | re.IGNORECASE,
)


class Role(StrEnum):
    """What a key may do; `docs/access.md` has the table."""

    SUBMIT, READ, OPERATE, ADMIN = "submit", "read", "operate", "admin"

    def may(self, method: str, path: str) -> bool:
        """Whether this role may send such a request."""
        if self is Role.ADMIN:
            return True
        if method in {"GET", "HEAD"}:
            return self is not Role.SUBMIT or path.startswith("/jobs/")
        if path in {"/jobs", "/jobs/batch"}:
            return self is not Role.READ
        return self is Role.OPERATE and method != "DELETE"


class Caller(Struct, frozen=True):
    """Who sends a request."""

    name: str
    role: Role

    def require(self, method: str, path: str) -> None:
        """Raises Denied where the role may not send such a request."""
        if not self.role.may(method, path):
            reason = f"the key {self.name!r} has the role {self.role}, which may not {method} {path[:200]}"
            raise Denied(403, f"{reason}; take one with a wider role")


ANYONE = Caller("anyone", Role.ADMIN)


class Keys(Service):
    """All keys. Without any, an API that only this machine can reach is open, another one with SCHEDULER_OPEN only."""

    name = "keys"

    def __init__(self, settings: Settings, store: Store) -> None:
        super().__init__()
        self._store, self._given = store, _given(settings)
        self._known, self._is_read = self._given, False
        self._may_be_open = settings.open or not settings.is_public
        self._anyone: Caller | None = None
        self.admitted: dict[object, Caller] = {}  # by what the guard has read of a request; forgotten when keys change

    def holder(self, authorization: bytes | None) -> Caller | None:
        """Whose key this header carries, if any's."""
        scheme, _, key = (authorization or b"").partition(b" ")
        return self._known.get(sha256(key.strip()).digest()) if scheme.lower() == b"bearer" else None

    async def caller(self, authorization: bytes | None) -> Caller | None:
        """Who sends this header: anyone where the API is open. Raises StoreUnavailable where keys were never read."""
        if (found := self.holder(authorization)) is None and not self._is_read:
            await self.tick()
            found = self.holder(authorization)
        return found or self._anyone

    def admit(self, seen: tuple[bytes | None, ...], caller: Caller) -> None:
        """Remember who sends such requests."""
        if sum(len(each or b"") for each in seen) <= MAX_ADMITTED:
            if len(self.admitted) >= MAX_ADMITTED:
                self.admitted.clear()
            self.admitted[seen] = caller

    async def tick(self) -> float:
        """Without PostgreSQL the keys that were known last go on."""
        held = {digest: Caller(name, Role(role)) for name, role, digest, _ in await self._store.keys()}
        if (known := held | self._given) != self._known:
            self._known = known
            self.admitted.clear()
        self._is_read, self._anyone = True, ANYONE if self._may_be_open and not known else None
        return PERIOD_SECONDS

    async def require(self) -> None:
        """Raises ConfigurationError when others than this machine can reach it without a key, untold."""
        await self.tick()
        if not self._known and not self._anyone:
            remedy = "`scheduler keys add` makes one, SCHEDULER_API_KEYS takes some, SCHEDULER_OPEN=1 goes without"
            raise ConfigurationError(f"SCHEDULER_HOST lets others than this machine in, and there is no key; {remedy}")


def _given(settings: Settings) -> dict[bytes, Caller]:
    """By its hash each key of SCHEDULER_API_KEYS. Raises ConfigurationError, which tells no key."""
    found: dict[bytes, Caller] = {}
    for place, text in enumerate(settings.api_keys, 1):
        entry, roles = _ENTRY.fullmatch(text), [*Role]
        if not entry or (entry["role"] or "admin") not in roles or (entry["hash"] and not entry["name"]):
            form = f"KEY, NAME:ROLE:KEY or NAME:ROLE:sha256=HEX with a role of {', '.join(roles)}"
            raise ConfigurationError(f"SCHEDULER_API_KEYS: entry {place} is no {form}")
        if entry["key"] and len(entry["key"]) < SHORTEST and settings.is_public and not settings.open:
            remedy = "take a long random one, as `scheduler keys add` makes it"
            raise ConfigurationError(f"SCHEDULER_API_KEYS: the key of entry {place} can be guessed; {remedy}")
        digest = bytes.fromhex(entry["hash"]) if entry["hash"] else sha256(entry["key"].encode()).digest()
        found[digest] = Caller(entry["name"] or f"key-{place}", Role(entry["role"] or "admin"))
    return found
