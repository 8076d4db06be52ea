"""Broken builds of claiming, settling and giving back."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

from chaos.controls.control import control
from chaos.controls.patch import replace, rewrite
from scheduler.errors import ValueRefused
from scheduler.jobs.job import Outcome
from scheduler.jobs.lifecycle import RULES, Transition
from scheduler.storage import postgres
from scheduler.storage.store import Store
from scheduler.storage.stream import Delivery, Share, Stream
from scheduler.worker.bodies import Bodies
from scheduler.worker.reader import Reader
from scheduler.worker.worker import Worker


@control(
    "settle-before-body",
    "writes the final status before the body runs",
    breaks=("at-least-once", "status-effect"),
    scenario="worker-killed",
)
def settle_before_body() -> None:
    claim = Store.claim

    async def claim_and_complete(self: Store, worker: bytes, job_ids: Any) -> Any:
        jobs = await claim(self, worker, job_ids)
        await self.complete([Outcome.complete(job, None) for job in jobs])
        return jobs

    replace(Store, "claim", claim_and_complete)


@control("no-fence", "settles without presenting the fence", breaks=("fencing",), scenario="worker-paused")
def no_fence() -> None:
    rewrite("complete", (" AND fence = %(fence)s AND status = 'PROCESSING'", ""))
    rewrite("settle", (" AND j.fence = o.fence AND j.status = 'PROCESSING'", ""))


@control(
    "no-status-guard",
    "claims whatever it is handed, finished or not",
    breaks=("repetition", "fencing"),
    scenario="redis-partition",
)
def no_status_guard() -> None:
    """As the schema forbids a running job with an end, this claim takes the end away."""
    rewrite(
        "claim",
        (
            "attempt = attempt + CASE status WHEN 'PENDING' THEN 1 ELSE 0 END",
            "attempt = least(attempt + 1, max_attempts)",
        ),
        ("SET attempt", "SET finished_at = NULL, attempt"),
        ("status = 'PROCESSING' AND worker_id = %(worker)s OR status = 'PENDING' AND run_at", "run_at"),
    )


@control(
    "settle-async", "settles with synchronous_commit=off", breaks=("fencing",), scenario="postgres-restarted", runs=5
)
def settle_async() -> None:
    replace(postgres, "_PIN", "SELECT set_config('synchronous_commit', 'off', false), true")


@control(
    "release-burns",
    "spends an attempt on every job given back at SIGTERM",
    breaks=("release",),
    scenario="worker-terminated",
)
def release_burns() -> None:
    RULES[Transition.RELEASE] = dataclasses.replace(RULES[Transition.RELEASE], attempt=0)


@control(
    "slot-hangs",
    "what is no Exception hangs the slot that its body ran in",
    breaks=("terminal", "exactly-once"),
    scenario="worker-fooled",
)
def slot_hangs() -> None:
    run = Bodies._run

    async def fragile(self: Bodies, *call: Any) -> Any:
        value, error = await run(self, *call)
        if error is not None and not isinstance(error, Exception):
            await asyncio.Event().wait()
        return value, error

    replace(Bodies, "_run", fragile)


@control(
    "cancelled-runs",
    "tells the bodies that run of a cancelling, and forgets those jobs that wait in hand",
    breaks=("cancelled-in-hand",),
    scenario="cancelled",
)
def cancelled_runs() -> None:
    def tell_running(self: Worker, job_ids: list[bytes]) -> None:
        for job_id in job_ids:
            if context := self.executor.running.get(job_id):
                context.cancelled = True

    replace(Worker, "_mark_cancelled", tell_running)


@control(
    "waits-for-bodies",
    "waits for a body past its time-out until it returns, however long that takes",
    breaks=("given-up", "exactly-once"),
    scenario="overtime",
)
def waits_for_bodies() -> None:
    async def call(self: Bodies, job: Any, handler: Any, context: Any, payload: Any, seconds: float | None) -> Any:
        ended, took = await self._timed(job, handler, context, payload)
        return ended if seconds is None or took <= seconds else (None, TimeoutError(f"timed out after {seconds:g} s"))

    replace(Bodies, "call", call)


@control(
    "wrong-worker-buries",
    "keeps on circulating jobs that it has no handler for, and buries those that are old",
    breaks=("status-effect", "dlq-exact", "exactly-once"),
    scenario="workers-unlike",
)
def wrong_worker_buries() -> None:
    rewrite(
        "misfits",
        ("w.expires_at > now() AND j.type = ANY(w.types)) AS is_listed", "false) AS is_listed"),
        ("greatest(r.refused_at, m.run_at)", "m.run_at"),
        ("AND NOT EXISTS (SELECT FROM scheduler.workers w WHERE m.type = ANY(w.types)) AS", "AS"),
    )


@control(
    "keeps-malformed",
    "goes on claiming what it was handed, whether that is an id or not",
    breaks=("terminal",),
    scenario="redis-garbage",
)
def keeps_malformed() -> None:
    some = Reader._claim_some

    def all_of_them(self: Stream, reply: Any) -> list[Delivery]:
        return [
            Delivery(entry, fields[1] if fields else b"") for _, entries in reply or () for entry, fields in entries
        ]

    async def for_ever(self: Reader, deliveries: list[Delivery]) -> Any:
        try:
            return await some(self, deliveries)
        except ValueRefused as error:
            raise RuntimeError("a claim was refused") from error

    replace(Stream, "_deliveries", all_of_them)
    replace(Reader, "_claim_some", for_ever)


@control(
    "takes-all",
    "takes all that it has room for, whatever others could run",
    breaks=("even-share",),
    scenario="shared",
)
def takes_all() -> None:
    take = Stream.take

    async def all_of_it(self: Stream, consumer: str, limit: int, least: int = 0) -> Share:
        return await take(self, consumer, limit, max(least, limit))

    replace(Stream, "take", all_of_it)
