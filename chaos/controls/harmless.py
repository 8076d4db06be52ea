"""Faults of the scheduler itself that the design outlives: under them nothing is lost."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ResponseError

from chaos.controls.control import EVERYWHERE, control
from chaos.controls.patch import replace
from scheduler.storage import stream as streaming
from scheduler.storage.stream import Stream

harmless = partial(control, drain_seconds=60.0, is_harmless=True)


@harmless("early-ack", "acknowledges a delivery as soon as it is read", scenario="worker-killed")
def early_ack() -> None:
    read, take = Stream.read, Stream.take

    async def read_and_ack(self: Stream, consumer: str, limit: int, seconds: float = 1.0) -> Any:
        deliveries = await read(self, consumer, limit, seconds)
        await self.ack([each.entry for each in deliveries])
        return deliveries

    async def take_and_ack(self: Stream, consumer: str, limit: int, least: int = 0) -> Any:
        share = await take(self, consumer, limit, least)
        await self.ack([each.entry for each in share.deliveries])
        return share

    replace(Stream, "read", read_and_ack)
    replace(Stream, "take", take_and_ack)


@harmless("noack", "reads with NOACK", scenario="worker-killed")
def noack() -> None:
    async def read(self: Stream, consumer: str, limit: int, seconds: float = 1.0) -> Any:
        return await self._read_group(consumer, limit, ">", "BLOCK", int(seconds * 1000), "NOACK")

    async def take(self: Stream, consumer: str, limit: int, least: int = 0) -> Any:
        return streaming.Share(await self._read_group(consumer, limit, ">", "NOACK"), 0)

    replace(Stream, "read", read)
    replace(Stream, "take", take)


@harmless(
    "group-at-end",
    "creates the consumer group at `$`, past what is there already",
    scenario="redis-flushed",
    on=EVERYWHERE,
)
def group_at_end() -> None:
    async def ensure_group(self: Stream) -> None:
        async with streaming.translated():
            try:
                await self._redis.xgroup_create(self.stream, self.group, id="$", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    replace(Stream, "ensure_group", ensure_group)


@harmless(
    "cursor-dropped",
    "adopts one entry of a dead consumer and forgets where it was",
    breaks=("redis-empty",),
    scenario="worker-killed",
)
def cursor_dropped() -> None:
    adopt, seen = Stream.adopt, set[str]()

    async def adopt_one(self: Stream, dead: str, heir: str, limit: int = 100) -> int:
        if dead in seen:
            return 0
        seen.add(dead)
        return await adopt(self, dead, heir, 1)

    replace(Stream, "adopt", adopt_one)


@harmless(
    "redis-resends",
    "has redis-py send every command again whose reply is lost",
    scenario="redis-ack-lost",
    on=EVERYWHERE,
)
def redis_resends() -> None:
    replace(streaming, "Retry", lambda *_: Retry(ConstantBackoff(0.05), 3))


@harmless("clock-behind", "runs one worker by a clock that is an hour behind", scenario="worker-killed", on="worker-1")
def clock_behind() -> None:
    wall, wall_ns = time.time, time.time_ns
    replace(time, "time", lambda: wall() - 3_600)
    replace(time, "time_ns", lambda: wall_ns() - 3_600_000_000_000)
