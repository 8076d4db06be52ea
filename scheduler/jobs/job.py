"""The values that travel: a job to be submitted, a claimed job, and the outcome of one attempt.

Ids are uuid v7 and travel as 16 raw bytes; text is made at the edges only.
"""

from __future__ import annotations

import re

import msgspec

from scheduler.jobs.lifecycle import Transition, after_death

_ID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def id_text(raw: bytes) -> str:
    """The canonical text of a raw id."""
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_bytes(text: str) -> bytes | None:
    """The raw id, or None when `text` is not a canonical uuid."""
    return bytes.fromhex(text.replace("-", "")) if _ID.fullmatch(text) else None


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
        """Whether it is not due at once."""
        return bool(self.delay_seconds) or self.run_at is not None


class HeldJob(msgspec.Struct, frozen=True, gc=False):
    """A job that some worker holds; `fence` is the token that every later write must present."""

    id: bytes
    fence: int
    type: str
    attempt: int
    max_attempts: int


class ClaimedJob(HeldJob, frozen=True, gc=False):
    """A job that this worker has claimed. `payload` is JSON, None where it is yet to be fetched, as it is large.

    `crashes`: worker deaths in a row.
    """

    timeout_seconds: float | None
    payload: bytes | None
    crashes: int = 0


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one attempt; `delay_seconds` counts from the moment it is settled, `result` is JSON text.

    A delay of None: the job is final. Made by one constructor a transition, or by one that decides which it is.
    """

    job: HeldJob
    transition: Transition
    delay_seconds: float | None = None
    result: str | None = None
    error: str | None = None
    trace: str | None = None  # where in the handler's code the error came from

    @classmethod
    def complete(cls, job: HeldJob, result: str | None) -> Outcome:
        """The handler returned."""
        return cls(job, Transition.COMPLETE, None, result)

    @classmethod
    def retry(cls, job: HeldJob, error: str, delay_seconds: float, trace: str | None = None) -> Outcome:
        """The handler failed, and attempts are left."""
        return cls(job, Transition.RETRY, delay_seconds, None, error, trace)

    @classmethod
    def fail(cls, job: HeldJob, error: str, trace: str | None = None) -> Outcome:
        """The job goes to the dead letters."""
        return cls(job, Transition.FAIL, None, None, error, trace)

    @classmethod
    def snooze(cls, job: HeldJob, seconds: float) -> Outcome:
        """The handler asked for a later time, unburned."""
        return cls(job, Transition.SNOOZE, seconds)

    @classmethod
    def release(cls, job: HeldJob, delay_seconds: float = 0.0) -> Outcome:
        """Given back unburned, due when it was; delivered again after the delay."""
        return cls(job, Transition.RELEASE, delay_seconds)

    @classmethod
    def crash(cls, job: HeldJob) -> Outcome:
        """Its worker died: rescued, or failed when attempts are spent."""
        transition = after_death(job.attempt, job.max_attempts)
        delay = 0.0 if transition is Transition.RESCUE else None
        error = f"the worker died: its lease ran out during attempt {job.attempt}"
        return cls(job, transition, delay, None, error)
