"""GET /metrics and GET /stats: bounded look-ups, cached for a second, so that watching is never the outage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from msgspec.structs import asdict
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import FACTS, tally
from scheduler.storage.rows import Live, LiveWorker
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

FRESH_SECONDS = 1.0
COUNT_LIMIT = 100_000

_GAUGES = {
    "due": ("scheduler_jobs_due", "PENDING jobs whose time has come (counted up to 100,000 unfinished jobs)"),
    "waiting": ("scheduler_jobs_waiting", "PENDING jobs whose time is still to come"),
    "processing": ("scheduler_jobs_processing", "jobs that workers hold"),
    "oldest_due_seconds": ("scheduler_oldest_due_seconds", "age of the oldest due job that nobody has claimed"),
    "dlq": ("scheduler_dead_letters", "jobs in the dead letter queue"),
    "stream": ("scheduler_stream_entries", "entries on the Redis stream"),
    "pending": ("scheduler_stream_pending", "entries delivered and not acknowledged"),
    "retry": ("scheduler_retry_entries", "ids in the retry ZSET"),
}


class Stats(Live, frozen=True):
    """Figures of now; those of Redis are None while it is out of reach."""

    backlog: int
    dlq: int
    stream: int | None
    pending: int | None
    retry: int | None
    workers: list[LiveWorker]


class Gauges:
    """The figures, read again when they are older than FRESH_SECONDS."""

    def __init__(self, store: Store, stream: Stream) -> None:
        self._store, self._stream = store, stream
        self._lock, self._read_at = asyncio.Lock(), -1e9
        self._stats: Stats | None = None

    async def stats(self) -> Stats:
        """Raises StoreUnavailable without PostgreSQL."""
        async with self._lock:
            if self._stats is None or time.monotonic() - self._read_at > FRESH_SECONDS:
                self._stats = await self._read()
                self._read_at = time.monotonic()
            return self._stats

    async def _read(self) -> Stats:
        live = await self._store.live_counts(COUNT_LIMIT)
        redis: dict[str, Any] = dict.fromkeys(("stream", "pending", "retry"))
        with suppress(StoreUnavailable):
            lengths = await self._stream.lengths()
            redis = {name: getattr(lengths, name) for name in redis}
        return Stats(
            **asdict(live),
            **redis,
            backlog=live.due + live.processing,
            dlq=await self._store.dead_count(),
            workers=await self._store.workers(),
        )

    async def exposition(self) -> bytes:
        """The Prometheus text. Counters are this API process's and, by the label `process`, each live worker's."""
        registry = CollectorRegistry()
        stats: Stats | None = None
        with suppress(StoreUnavailable):
            stats = await self.stats()
        registry.register(_Snapshot(stats))
        return generate_latest(registry)


class _Snapshot:
    def __init__(self, stats: Stats | None) -> None:
        self._stats = stats

    def collect(self) -> Any:
        yield GaugeMetricFamily("scheduler_postgres_up", "1 when PostgreSQL answered", value=self._stats is not None)
        processes: dict[str, Any] = {"api": Counter(tally)}
        if stats := self._stats:
            processes |= {worker.name: worker.counters for worker in stats.workers}
            yield GaugeMetricFamily("scheduler_workers", "live workers", value=len(stats.workers))
            for field, (name, help) in _GAUGES.items():
                if (value := getattr(stats, field)) is not None:
                    yield GaugeMetricFamily(name, help, value=value)
        for fact in (each for each in FACTS if each.counted):
            family = CounterMetricFamily(f"scheduler_{fact.name}", fact.unit, labels=["process"])
            for process, counters in processes.items():
                family.add_metric([process], counters.get(fact.name, 0))
            yield family
