"""Poison jobs: a job that two workers in a row died with may be what killed them, so it shares no worker with its like.

Which of several suspects is the poison nobody knows yet. One runs at a time, the others are given back unburned.
"""

from __future__ import annotations

import asyncio

from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.worker.hands import Hands
from scheduler.worker.slots import Slots

SUSPECT_AFTER_CRASHES = 2
SUSPECT_WAIT_SECONDS = 0.2


class Suspects:
    """Keeps suspects from dragging each other to the dead letters."""

    def __init__(self, hands: Hands, slots: Slots) -> None:
        self._hands, self._slots = hands, slots
        self._running = b""

    def among(self, jobs: list[ClaimedJob]) -> list[ClaimedJob]:
        """Those that may have killed their workers."""
        return [job for job in jobs if job.crashes >= SUSPECT_AFTER_CRASHES]

    async def run_alone(self, suspects: list[ClaimedJob], quiet: asyncio.Event) -> None:
        """Run one suspect at a time, and only when the others are given back: its crash must not be theirs."""
        hands = self._hands
        chosen = [] if self._running in hands.entries else suspects[:1]
        put_off = suspects[len(chosen) :]
        for job in put_off:
            hands.finished(Outcome.release(job, SUSPECT_WAIT_SECONDS))
        while not quiet.is_set() and any(job.id in hands.entries for job in put_off):
            await hands.change(SUSPECT_WAIT_SECONDS)
        if chosen:
            self._running = chosen[0].id
            self._slots.put(chosen)
