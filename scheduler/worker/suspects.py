"""Poison jobs: a job that two workers in a row died with may be what killed them, so few of its like share a worker.

Which of several suspects is the poison nobody knows yet. So they run in groups, half as many with each death, and alone
when the next death is a job's last attempt. The others are given back unburned, each until the worker may come to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.worker.hands import Hands

SUSPECT_AFTER_CRASHES = 2
MAX_COMPANY = 10
JOIN_SECONDS = 0.2
MOST_WAIT_SECONDS = 10.0
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 5.0


class Suspects:
    """Keeps suspects from dragging each other to the dead letters. A group that outlives a lease is clear."""

    def __init__(self, hands: Hands, put: Callable[[Sequence[ClaimedJob]], None], lease_seconds: float) -> None:
        self._hands, self._put, self._lease = hands, put, lease_seconds
        self._group: set[bytes] = set()
        self._size = 0  # of how many the group may be
        self._since = 0.0
        self._wait = FIRST_WAIT_SECONDS  # how long a group takes, as far as is known
        self._next_at = 0.0  # when the last of those put off is to come back

    def among(self, jobs: Sequence[ClaimedJob]) -> list[ClaimedJob]:
        """Those that may have killed their workers."""
        return [job for job in jobs if job.crashes >= SUSPECT_AFTER_CRASHES]

    async def run(self, suspects: Sequence[ClaimedJob], quiet: asyncio.Event) -> None:
        """Start those whose turn it is, and only when the others are given back: a crash must not be theirs. When that
        takes too long, PostgreSQL is away; then all are given back.
        """
        hands, now = self._hands, time.monotonic()
        self._learn(now)
        chosen = self._choose(suspects, now)
        put_off = [job for job in suspects if job not in chosen]
        self._put_off(put_off, now)
        while not quiet.is_set() and any(job.id in hands.entries for job in put_off):
            if time.monotonic() > now + MOST_WAIT_SECONDS:
                self._put_off(chosen, now)
                return
            await hands.change(0.2)
        self._put(chosen)

    def _learn(self, now: float) -> None:
        """Forget a group that has ended or is clear; learn from it how long to wait for the next."""
        age, running = now - self._since, any(job_id in self._hands.entries for job_id in self._group)
        if self._group and not running:
            self._wait = max(FIRST_WAIT_SECONDS, min(self._wait, age))
        elif running and age >= self._wait:
            self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)
        if self._group and (not running or (self._size > 1 and age > self._lease)):
            self._group.clear()

    def _choose(self, suspects: Sequence[ClaimedJob], now: float) -> list[ClaimedJob]:
        if not self._group:
            self._size, self._since = min(map(_company, suspects)), now
        elif now - self._since > JOIN_SECONDS:
            return []
        fitting = sorted((job for job in suspects if _company(job) >= self._size), key=_company)
        chosen = fitting[: self._size - len(self._group)]
        self._group.update(job.id for job in chosen)
        return chosen

    def _put_off(self, jobs: Sequence[ClaimedJob], now: float) -> None:
        """Each group's worth comes back after the one before it, by when that is likely to have ended."""
        for at in range(0, len(jobs), MAX_COMPANY):
            self._next_at = max(now, self._next_at) + self._wait
            for job in jobs[at : at + MAX_COMPANY]:
                self._hands.finished(Outcome.release(job, self._next_at - now))


def _company(job: ClaimedJob) -> int:
    """How many suspects may share a worker with this one, itself among them."""
    if job.attempt >= job.max_attempts:
        return 1
    return max(1, MAX_COMPANY >> (job.crashes - SUSPECT_AFTER_CRASHES))
