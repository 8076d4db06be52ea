"""GET /metrics and GET /stats: bounded look-ups, cached for a second, so that watching is never the outage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import FACTS, tally
from scheduler.jobs.job import id_text
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream

FRESH_SECONDS = 1.0
COUNT_LIMIT = 100_000

_GAUGES = {
    "due": ("scheduler_jobs_due", "PENDING jobs whose time has come (counted up to 100,000 unfinished jobs)"),
    "waiting": ("scheduler_jobs_waiting", "PENDING jobs whose time is still to come"),
    "processing": ("scheduler_jobs_processing", "jobs that workers hold"),
    "oldest_due_seconds": (
        "scheduler_oldest_due_seconds",
        "age of the oldest due job that nobody has claimed",
    ),
    "dlq": ("scheduler_dead_letters", "jobs in the dead letter queue"),
    "stream": ("scheduler_stream_entries", "entries on the Redis stream"),
    "pending": ("scheduler_stream_pending", "entries delivered and not acknowledged"),
    "retry": ("scheduler_retry_entries", "ids in the retry ZSET"),
}


class Gauges:
    def __init__(self, store: Store, stream: Stream) -> None:
        self._store, self._stream = store, stream
        self._lock = asyncio.Lock()
        self._read_at = -1e9
        self._stats: dict[str, Any] = {}

    async def stats(self) -> dict[str, Any]:
        """Raises StoreUnavailable without PostgreSQL; without Redis its three figures are None."""
        async with self._lock:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._stats = await self._read()
                self._read_at = time.monotonic()
            return self._stats

    async def _read(self) -> dict[str, Any]:
        due, waiting, processing, oldest = await self._store.live_counts(COUNT_LIMIT)
        try:
            lengths = await self._stream.lengths()
            redis: dict[str, int | None] = {
                "stream": lengths.stream,
                "pending": lengths.pending,
                "retry": lengths.retry,
            }
        except StoreUnavailable:
            redis = dict.fromkeys(("stream", "pending", "retry"))
        workers = [
            {
                "id": id_text(worker.id),
                "name": worker.name,
                "age_seconds": round(worker.age_seconds, 3),
                "types": list(worker.types),
                "counters": msgspec.json.decode(worker.counters),
            }
            for worker in await self._store.workers()
        ]
        return {
            "backlog": due + waiting + processing,
            "due": due,
            "waiting": waiting,
            "processing": processing,
            "oldest_due_seconds": round(oldest, 3),
            "dlq": await self._store.dead_count(),
            **redis,
            "workers": workers,
        }

    async def exposition(self) -> bytes:
        """The Prometheus text. Counters are this API process's and, by the label `process`, each live worker's."""
        registry = CollectorRegistry()
        try:
            stats: dict[str, Any] | None = await self.stats()
        except StoreUnavailable:
            stats = None
        registry.register(_Snapshot(stats))
        return generate_latest(registry)


class _Snapshot:
    def __init__(self, stats: dict[str, Any] | None) -> None:
        self._stats = stats

    def collect(self) -> Any:
        up = GaugeMetricFamily("scheduler_postgres_up", "1 when PostgreSQL answered")
        up.add_metric([], 0 if self._stats is None else 1)
        yield up
        processes: dict[str, Any] = {"api": Counter(tally)}
        if self._stats is not None:
            processes |= {worker["name"]: worker["counters"] for worker in self._stats["workers"]}
            yield GaugeMetricFamily("scheduler_workers", "live workers", value=len(self._stats["workers"]))
            for field, (name, help) in _GAUGES.items():
                if self._stats[field] is not None:
                    yield GaugeMetricFamily(name, help, value=self._stats[field])
        for fact in (each for each in FACTS if each.counted):
            family = CounterMetricFamily(f"scheduler_{fact.name}", fact.unit, labels=["process"])
            for process, counters in processes.items():
                family.add_metric([process], counters.get(fact.name, 0))
            yield family
