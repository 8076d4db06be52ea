"""Bearer keys. Without any set, everything is open; /healthz, /readyz and the documentation always are."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from scheduler.api import docs
from scheduler.errors import Unauthorized

OPEN_PATHS = docs.OPEN_PATHS | {"/healthz", "/readyz"}


class Keys:
    """Those that open the API; none: it is open."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, authorization: bytes | None) -> None:
        """Raises Unauthorized unless the header carries one of the keys; compares in constant time."""
        if not self._keys:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            raise Unauthorized("send `Authorization: Bearer KEY` with a key from SCHEDULER_API_KEYS")
