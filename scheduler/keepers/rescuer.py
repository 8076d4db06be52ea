"""Gives back what dead workers hold, driven by PostgreSQL's state alone; then clears up after them in Redis.

It acts only after its own lease was renewed without a gap for one lease: after an outage of PostgreSQL nobody could
renew, and nobody is dead for that. It acts on a lease that ran out only when it has seen it unchanged for two beats by
its own clock, as PostgreSQL's may step: whoever lives renews in between. So that this costs no time, it looks at each
lease two beats before its end at the latest. What it decides is written by the statement `settle`, as every end is.
Leases are deleted last: whoever finds one that ran out, finds a rescue to finish.
"""

from __future__ import annotations

import time

from scheduler.facts.facts import FAILED, JOB_FAILED, RESCUE_PUBLISHED, RESCUED, tell
from scheduler.jobs.job import Outcome, id_text
from scheduler.jobs.lifecycle import Transition
from scheduler.service import Service
from scheduler.storage.rows import Lease
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker.heartbeat import BEATS_A_LEASE, Heartbeat
from scheduler.worker.settler import tell_redis

PERIOD_SECONDS, MARGIN_SECONDS = 0.25, 0.01
BATCH = 1_000
SEEN_BEATS = 2
STRAYS_SECONDS = 5.0
# A claim that was under way while its worker's lease ran out is found by looking again: soon after a death, and
# now and then. The look costs a scan of the unfinished jobs.
SECOND_LOOK_SECONDS, EVERY_SECONDS = 2.0, 60.0


class Rescuer(Service):
    """Sleeps until a lease of another worker may run out."""

    name = "rescuer"

    def __init__(self, store: Store, stream: Stream, heartbeat: Heartbeat, lease_seconds: float) -> None:
        super().__init__()
        self._store, self._stream, self._heartbeat, self._lease = store, stream, heartbeat, lease_seconds
        self._unchanged = SEEN_BEATS * lease_seconds / BEATS_A_LEASE
        self._seen_at: dict[tuple[bytes, float], float] = {}
        self._look_at = time.monotonic() + EVERY_SECONDS
        self._strays_at = 0.0

    async def tick(self) -> float:
        asked = time.monotonic()
        leases = await self._store.leases()
        self._note(leases, asked)
        expired = [lease for lease in leases if lease.left_seconds <= 0]
        if self._heartbeat.steady_seconds < self._lease:
            return PERIOD_SECONDS
        if (unsure := max(map(self._unsure_seconds, expired), default=0.0)) > 0:
            return unsure
        if expired or asked >= self._look_at:
            self._look_at = asked + (SECOND_LOOK_SECONDS if expired else EVERY_SECONDS)
            if await self._rescue() == BATCH:
                self._look_at = asked
                return 0.0
        if expired:
            await self._store.forget_dead()
        if asked >= self._strays_at:
            self._strays_at = asked + STRAYS_SECONDS
            await self._clear_strays()
        due = self._look_at, self._strays_at
        return PERIOD_SECONDS if expired else max(0.0, min(self._rest(leases), min(due) - time.monotonic()))

    def _note(self, leases: list[Lease], now: float) -> None:
        """When each was first seen to end when it does. Who is gone, or has come to an end, may have left strays."""
        if {worker for worker, _ in self._seen_at} - {lease.id for lease in leases if lease.left_seconds > 0}:
            self._strays_at = 0.0
        keys = [(lease.id, lease.expires_at) for lease in leases]
        self._seen_at = {key: self._seen_at.get(key, now) for key in keys}

    def _unsure_seconds(self, lease: Lease) -> float:
        """How much longer it must stay as it is to be taken for a dead worker's."""
        return self._seen_at[lease.id, lease.expires_at] + self._unchanged - time.monotonic()

    def _rest(self, leases: list[Lease]) -> float:
        """Until the next look: each lease is to be seen two beats before its end, and at its end."""
        left = [lease.left_seconds + MARGIN_SECONDS for lease in leases if lease.id != self._heartbeat.worker]
        waits = [seconds - self._unchanged if seconds > self._unchanged else seconds for seconds in left]
        return min([self._lease - self._unchanged, *waits])

    async def _rescue(self) -> int:
        """Look, decide, settle, publish. Returns how many orphans the look found, at most BATCH."""
        orphans = await self._store.orphans(BATCH, self._heartbeat.worker)
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
                self._strays_at = time.monotonic() + PERIOD_SECONDS  # more than one call adopts, perhaps
                if pending:
                    await self._stream.adopt(name, self._heartbeat.worker_text)
                else:
                    await self._stream.forget(name)
