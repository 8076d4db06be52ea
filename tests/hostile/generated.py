# ruff: noqa: E501  (tables: one line each is easier to read)
"""Generated attacks: requests made from valid ones by a seeded hand. The n-th of a seed is always the same."""

from __future__ import annotations

import json
from random import Random
from typing import Any
from urllib.parse import quote

from tests.hostile.attacks import SOME_ID, Attack
from tests.hostile.wire import request

TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", rb"\u0000", rb"\ud800", b"\xff", b"\x00", b"NaN", b"1e400", b"-0",
          b"null", b"\n", b"9" * 400, b"[" * 150, b'{"a":' * 120, b"true", b"\xc3\xa4", b'"payload"', b'"type":"NOOP",']  # fmt: skip
TEXTS = [
    "",
    "NOOP",
    "x",
    "\x00",
    "\n",
    "ä",
    "\ud800",
    "𝄞",
    "%",
    "_",
    "'",
    '"',
    "\\",
    "x" * 201,
    "../..",
    "2030-01-01T00:00:00Z",
    SOME_ID,
]
NUMBERS: list[float] = [0, -1, 1, 0.5, 1e300, 5e-324, 2**31, 2**63, 2**64, 10**40, float("nan"), float("inf"), 1001]
FIELDS = ["type", "payload", "delay_seconds", "run_at", "max_attempts", "timeout_seconds", "idempotency_key", "jobs", "ids",
          "error", "older_than_seconds", "limit", "dry_run", "rate", ""]  # fmt: skip
WORDS = [
    "jobs",
    "batch",
    "dlq",
    "redrive",
    "cancel",
    "stats",
    "metrics",
    "readyz",
    "docs",
    SOME_ID,
    "..",
    ".",
    "",
    "\n",
    "\x00",
]
HEADERS = [
    "Idempotency-Key",
    "Content-Type",
    "Host",
    "Origin",
    "Authorization",
    "Expect",
    "Accept",
    "Content-Encoding",
    "X",
]


def attack(seed: int, n: int) -> Attack:
    """The n-th."""
    dice = Random(f"{seed}/{n}")
    make = dice.choices([_job, _batch, _selection, _address, _headed, _frame], [30, 10, 10, 25, 15, 10])[0]
    return make(dice, f"{make.__name__.strip('_')} {seed}/{n}")


def _job(dice: Random, name: str) -> Attack:
    return Attack(name, request("POST", "/jobs", _spoiled(dice, _submission(dice))))


def _batch(dice: Random, name: str) -> Attack:
    jobs = [_submission(dice) for _ in range(dice.randrange(4))]
    return Attack(name, request("POST", "/jobs/batch", _spoiled(dice, {"jobs": jobs})))


def _selection(dice: Random, name: str) -> Attack:
    method, path = dice.choice([("POST", "/dlq/redrive"), ("DELETE", "/dlq")])
    fields = {dice.choice(FIELDS): _value(dice, 0) for _ in range(dice.randrange(1, 4))}
    return Attack(name, request(method, path, _spoiled(dice, fields)))


def _address(dice: Random, name: str) -> Attack:
    method = dice.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"])
    path = "/" + "/".join(dice.choice(WORDS) for _ in range(dice.randrange(1, 5)))
    query = "&".join(
        f"{dice.choice(['limit', 'cursor', 'status', 'type', 'a'])}={_text(dice)}" for _ in range(dice.randrange(3))
    )
    address = quote(path, safe="/%" if dice.random() < 0.5 else "/", errors="ignore")
    address += "?" + quote(query, safe="=&%", errors="ignore") if query else ""
    return Attack(name, request(method, address, b"{}" if method == "POST" else b""))


def _headed(dice: Random, name: str) -> Attack:
    more: list[tuple[str, str | bytes]] = []
    for _ in range(dice.randrange(1, 5)):
        value = _text(dice).encode("utf-8", "ignore") if dice.random() < 0.7 else dice.randbytes(dice.randrange(40))
        more.append((dice.choice(HEADERS), value.translate(None, b"\r\n\x00")))
    body = json.dumps({"type": "NOOP", "payload": {}}).encode()
    return Attack(name, request("POST", "/jobs", body, *more, json_type=dice.random() < 0.8))


def _frame(dice: Random, name: str) -> Attack:
    """Bent anywhere, and not waited for: so the job is one that is refused whatever else is wrong."""
    body = json.dumps({"payload": [], "delay_seconds": -1, **_submission(dice), "type": "?"}).encode()
    raw = request("POST", dice.choice(["/jobs", "/jobs/batch", "/dlq/redrive"]), body)
    return Attack(name, bytes(_bent(dice, raw)), cut=True)


def _submission(dice: Random) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": "NOOP",
        "payload": {_text(dice): _value(dice, 0) for _ in range(dice.randrange(3))},
    }
    if dice.random() < 0.6:
        fields[dice.choice(FIELDS[:7])] = _value(dice, 0)
    return fields


def _spoiled(dice: Random, content: Any) -> bytes:
    """Its JSON: as it is, or bent."""
    text = json.dumps(content, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")
    return text if dice.random() < 0.4 else bytes(_bent(dice, text))


def _bent(dice: Random, text: bytes) -> bytearray:
    bent = bytearray(text)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(bent) + 1)
        match dice.randrange(4):
            case 0:
                bent[at:at] = dice.choice(TOKENS)
            case 1:
                del bent[at : at + dice.randrange(1, 20)]
            case 2:
                bent[at : at + 1] = dice.randbytes(1)
            case _:
                bent[at:at] = bent[dice.randrange(len(bent) + 1) :][: dice.randrange(1, 200)]
    return bent


def _value(dice: Random, depth: int) -> Any:
    match dice.randrange(8 if depth < 4 else 5):
        case 0 | 1:
            return _text(dice)
        case 2 | 3:
            return dice.choice(NUMBERS)
        case 4:
            return dice.choice([None, True, False])
        case 5 | 6:
            return [_value(dice, depth + 1) for _ in range(dice.randrange(4))]
        case _:
            return {_text(dice): _value(dice, depth + 1) for _ in range(dice.randrange(4))}


def _text(dice: Random) -> str:
    return (
        dice.choice(TEXTS)
        if dice.random() < 0.8
        else "".join(chr(dice.randrange(0x3000)) for _ in range(dice.randrange(20)))
    )
