"""Gives back what dead workers hold, driven by PostgreSQL's state alone; then clears up after them in Redis.

It acts only after its own lease was renewed without a gap for one lease: after an outage of PostgreSQL nobody could
renew, and nobody is dead for that.
"""

from __future__ import annotations

import time

from scheduler.facts.facts import FAILED, JOB_FAILED, RESCUE_PUBLISHED, RESCUED, tell
from scheduler.jobs.job import id_text
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.heartbeat import Heartbeat

PERIOD_SECONDS = 0.25
STRAYS_SECONDS = 1.0
# A claim that was under way while its worker's lease ran out is found by looking again: soon after a death, and
# now and then. The look costs a scan of the unfinished jobs.
SECOND_LOOK_SECONDS, EVERY_SECONDS = 2.0, 60.0


class Rescuer(Service):
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
            await self._rescue()
        if now >= self._strays_at:
            self._strays_at = now + STRAYS_SECONDS
            await self._clear_strays()
        return PERIOD_SECONDS

    async def _rescue(self) -> None:
        rescued = await self._store.rescue()
        if not rescued:
            return
        again = [job.id for job in rescued if job.status == "PENDING"]
        buried = [(job.id, job.type, job.error or "") for job in rescued if job.status == "FAILED"]
        tell(RESCUED, again, dead_lettered=len(buried))
        tell(FAILED, len(buried))
        for job_id, type, error in buried:
            tell(JOB_FAILED, job_id=id_text(job_id), type=type, error=error)
        await self._stream.publish(again)
        await self._stream.dead_letter(buried)
        tell(RESCUE_PUBLISHED, rescued)

    async def _clear_strays(self) -> None:
        """Adopt the pending entries of consumers that are no live worker, and delete the empty ones."""
        consumers = await self._stream.consumers()
        alive = {id_text(worker.id) for worker in await self._store.workers()}
        for name, pending in consumers.items():
            if name not in alive:
                if pending:
                    await self._stream.adopt(name, self._heartbeat.worker_text)
                else:
                    await self._stream.forget(name)
