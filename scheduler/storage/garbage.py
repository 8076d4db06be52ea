"""What others put into Redis under our names: what is no id is dropped at every edge, and keys of no use are found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from redis.exceptions import ResponseError

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import MALFORMED, tell

ID_BYTES = 16
FOREIGN = "surrogateescape"  # how names are decoded and encoded that may be any bytes


def sound(key: str, job_ids: Collection[bytes]) -> Collection[bytes]:
    """Those that are ids; says what of them is none, and so goes no further than this key."""
    if wrong := [each for each in job_ids if len(each) != ID_BYTES]:
        tell(MALFORMED, len(wrong), key=key, value=repr(wrong[0][:40]))
        return [each for each in job_ids if len(each) == ID_BYTES]
    return job_ids


async def flaws_of(look: Callable[[str, str], Awaitable[bytes | None]], types: Mapping[str, str]) -> dict[str, str]:
    """Key -> what is wrong with it: our rights, its type, its ids. `look` at a key that must have a type says that."""
    found: dict[str, str] = {}
    for key, type in types.items():
        try:
            flaw = await look(key, type)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            flaw = error.reason.encode()
        if flaw:
            found[key] = flaw.decode(errors="replace")
    return found
