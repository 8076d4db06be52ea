"""Broken builds of the lease, of the keepers that stand in for the dead, and of going on after an error."""

from __future__ import annotations

import asyncio
import os
import time

from chaos.controls.control import EVERYWHERE, control
from chaos.controls.patch import idle, replace, rewrite
from scheduler.keepers.reconciler import Reconciler
from scheduler.keepers.rescuer import Rescuer
from scheduler.service import Service
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from scheduler.worker import worker
from scheduler.worker.heartbeat import Heartbeat
from scheduler.worker.watch import Watch

AHEAD_SECONDS = 60.0


@control(
    "heartbeat-off",
    "one live worker renews its lease every other lease only",
    breaks=("repetition",),
    scenario="redis-flushed",
    on="worker-1",
)
def heartbeat_off() -> None:
    renew, last = Heartbeat._renew, {"at": 0.0}

    async def sometimes(self: Heartbeat, store: Store) -> None:
        if time.monotonic() - last["at"] > 2 * self._lease:
            last["at"] = time.monotonic()
            await renew(self, store)

    replace(Heartbeat, "_renew", sometimes)


@control(
    "heartbeat-in-loop",
    "renews the lease from the event loop that bodies block",
    breaks=("repetition",),
    scenario="worker-blocked",
)
def heartbeat_in_loop() -> None:
    beating: list[asyncio.Task[None]] = []

    def start(self: Heartbeat) -> None:
        beating.append(asyncio.get_running_loop().create_task(self._beat()))

    async def stop(self: Heartbeat) -> None:
        self._stopping.set()
        await asyncio.wait(beating)

    replace(Heartbeat, "start", start)
    replace(Heartbeat, "stop", stop)


@control(
    "lease-of-the-useless",
    "renews the lease of workers whose loops have ended",
    breaks=("terminal",),
    scenario="worker-useless",
)
def lease_of_the_useless() -> None:
    replace(worker, "end_process", lambda *_: None)
    replace(Watch, "check", lambda _: None)


@control(
    "lease-own-clock",
    "dates the lease by the worker's own clock, which is a minute ahead",
    breaks=("recovery-time",),
    scenario="worker-killed",
)
def lease_own_clock() -> None:
    own = f"clock_timestamp() + interval '{AHEAD_SECONDS:g} seconds'"  # what this worker's clock says
    rewrite("heartbeat", ("clock_timestamp() + %(lease)s", f"{own} + %(lease)s"))


@control(
    "rescuer-off",
    "nobody gives back what dead workers hold",
    breaks=("recovery-time", "terminal"),
    scenario="worker-killed",
)
def rescuer_off() -> None:
    replace(Rescuer, "tick", idle)


@control(
    "first-look",
    "takes a worker for dead as soon as its lease is seen to have run out",
    breaks=("repetition",),
    scenario="postgres-clock",
)
def first_look() -> None:
    orphans = Store.orphans
    replace(Rescuer, "_unsure_seconds", lambda *_: 0.0)
    replace(Rescuer, "_rest", lambda *_: 0.1)
    replace(Store, "orphans", lambda self, limit, _: orphans(self, limit))  # nor does it look at its own lease


@control(
    "reconciler-off",
    "nobody publishes what Redis has forgotten",
    breaks=("terminal",),
    scenario="redis-flushed",
    on=EVERYWHERE,
)
def reconciler_off() -> None:
    replace(Reconciler, "tick", idle)


@control(
    "gives-up",
    "one worker ends at the first error of a store",
    breaks=("survival",),
    scenario="redis-partition",
    on="worker-1",
)
def gives_up() -> None:
    replace(Service, "_back_off", lambda _: os._exit(1))


@control(
    "no-trim", "leaves acknowledged entries in the stream", breaks=("redis-empty",), scenario="calm", on=EVERYWHERE
)
def no_trim() -> None:
    async def nothing(self: Stream) -> int:
        return 0

    replace(Stream, "trim", nothing)
