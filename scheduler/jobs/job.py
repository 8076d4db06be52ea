"""The values that travel: a job to be submitted, a claimed job, and the outcome of one attempt.

Ids are uuid v7 and travel as 16 raw bytes; text is made at the edges only.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import msgspec

from scheduler.jobs.lifecycle import Transition


def id_text(raw: bytes) -> str:
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_bytes(text: str) -> bytes | None:
    """The raw id, or None when `text` is not a canonical uuid."""
    try:
        return UUID(text).bytes if len(text) == 36 else None
    except ValueError:
        return None


class IdSequence:
    """uuid v7 in strictly rising order: RFC 9562 §6.2, method 3 (12 bits of sub-millisecond time), 62 random bits."""

    def __init__(self) -> None:
        self._last = 0

    def take(self, count: int, now_ns: int, entropy: bytes) -> list[bytes]:
        """`count` ids. `entropy` holds at least 8 random bytes an id."""
        first = max(self._last + 1, now_ns * 4096 // 1_000_000)
        self._last = first + count - 1
        ids = []
        for n in range(count):
            tick = first + n
            high = (tick >> 12) << 16 | 0x7000 | (tick & 0xFFF)
            low = 1 << 63 | int.from_bytes(entropy[8 * n : 8 * n + 8], "big") >> 2
            ids.append((high << 64 | low).to_bytes(16, "big"))
        return ids


class NewJob(msgspec.Struct, frozen=True, gc=False):
    """A job to be stored. `payload` is JSON text, `run_at` epoch seconds; `fingerprint` identifies its submission."""

    id: bytes
    type: str
    payload: str
    max_attempts: int
    delay_seconds: float | None = None
    run_at: float | None = None
    timeout_seconds: float | None = None
    idempotency_key: str | None = None
    fingerprint: bytes | None = None

    @property
    def is_delayed(self) -> bool:
        return bool(self.delay_seconds) or self.run_at is not None


@dataclass(slots=True)
class ClaimedJob:
    """A job this worker has claimed; `fence` is the token that every later write must present."""

    id: bytes
    fence: int
    type: str
    attempt: int
    max_attempts: int
    timeout_seconds: float | None
    payload: bytes
    waited_seconds: float
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one attempt; `delay_seconds` counts from the moment it is settled, `result` is JSON text."""

    job: ClaimedJob
    transition: Transition
    delay_seconds: float | None = None
    result: str | None = None
    error: str | None = None

    @classmethod
    def complete(cls, job: ClaimedJob, result: str | None) -> Outcome:
        return cls(job, Transition.COMPLETE, result=result)

    @classmethod
    def retry(cls, job: ClaimedJob, error: str, delay_seconds: float) -> Outcome:
        return cls(job, Transition.RETRY, delay_seconds, error=error)

    @classmethod
    def fail(cls, job: ClaimedJob, error: str) -> Outcome:
        return cls(job, Transition.FAIL, error=error)

    @classmethod
    def snooze(cls, job: ClaimedJob, seconds: float) -> Outcome:
        return cls(job, Transition.SNOOZE, seconds)

    @classmethod
    def release(cls, job: ClaimedJob, delay_seconds: float = 0.0) -> Outcome:
        return cls(job, Transition.RELEASE, delay_seconds)
