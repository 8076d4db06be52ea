"""Gives back what dead workers hold, driven by PostgreSQL's state alone; then clears up after them in Redis.

It acts only after its own lease was renewed without a gap for one lease: after an outage of PostgreSQL nobody could
renew, and nobody is dead for that. What it decides is written by the statement `settle`, as every end is. Leases are
deleted last: whoever finds one that ran out, finds a rescue to finish.
"""

from __future__ import annotations

import time

from scheduler.facts.facts import FAILED, JOB_FAILED, RESCUE_PUBLISHED, RESCUED, tell
from scheduler.jobs.job import Outcome, id_text
from scheduler.jobs.lifecycle import Transition
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.heartbeat import Heartbeat
from scheduler.worker.settler import tell_redis

PERIOD_SECONDS = 0.25
BATCH = 1_000
STRAYS_SECONDS = 1.0
# A claim that was under way while its worker's lease ran out is found by looking again: soon after a death, and
# now and then. The look costs a scan of the unfinished jobs.
SECOND_LOOK_SECONDS, EVERY_SECONDS = 2.0, 60.0


class Rescuer(Service):
    """Looks for leases that ran out four times a second."""

    name = "rescuer"

    def __init__(self, store: Store, stream: Stream, heartbeat: Heartbeat, lease_seconds: float) -> None:
        super().__init__()
        self._store, self._stream, self._heartbeat, self._lease = store, stream, heartbeat, lease_seconds
        self._look_at = time.monotonic() + EVERY_SECONDS
        self._strays_at = 0.0

    async def tick(self) -> float:
        if self._heartbeat.steady_seconds < self._lease:
            return PERIOD_SECONDS
        now = time.monotonic()
        dead = await self._store.any_dead()
        if dead or now >= self._look_at:
            self._look_at = now + (SECOND_LOOK_SECONDS if dead else EVERY_SECONDS)
            if await self._rescue() == BATCH:
                self._look_at = now
                return 0.0
        if dead:
            await self._store.forget_dead()
        if now >= self._strays_at:
            self._strays_at = now + STRAYS_SECONDS
            await self._clear_strays()
        return PERIOD_SECONDS

    async def _rescue(self) -> int:
        """Look, decide, settle, publish. Returns how many orphans the look found, at most BATCH."""
        orphans = await self._store.orphans(BATCH)
        if not orphans:
            return 0
        settled = await self._store.rescue([Outcome.crash(job) for job in orphans])
        buried = [o for o in settled.done if o.transition is Transition.FAIL]
        tell(RESCUED, [o for o in settled.done if o.transition is Transition.RESCUE], dead_lettered=len(buried))
        tell(FAILED, buried)
        for o in buried:
            tell(JOB_FAILED, job_id=id_text(o.job.id), type=o.job.type, attempt=o.job.attempt, error=o.error)
        await tell_redis(self._stream, settled)
        tell(RESCUE_PUBLISHED, settled.done)
        return len(orphans)

    async def _clear_strays(self) -> None:
        """Adopt the pending entries of consumers that are no live worker, and delete the empty ones."""
        consumers = await self._stream.consumers()
        alive = {worker.id for worker in await self._store.workers()}
        for name, pending in consumers.items():
            if name not in alive:
                if pending:
                    await self._stream.adopt(name, self._heartbeat.worker_text)
                else:
                    await self._stream.forget(name)
