"""The promoter sleeps until something is due, and hears what its own process schedules."""

from __future__ import annotations

import asyncio
import time

from scheduler.facts.facts import PROMOTING, Told, listen
from scheduler.keepers.promoter import Promoter
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.storage.factory import new_id


async def test_ids_are_promoted_at_their_time_and_nothing_is_asked_before(store: Store, stream: Stream) -> None:
    stop, told = asyncio.Event(), list[Told]()
    end = listen(PROMOTING, told.append)
    promoting = asyncio.create_task(Promoter(store, stream).run(stop))
    await asyncio.sleep(0.2)  # asleep by now, whatever the machine does: it looks once a second
    for wait in (0.9, 0.45):
        await stream.schedule({new_id(): await store.clock_ms() + wait * 1000})
    for _ in range(2):
        due_ms = await stream.next_due()
        [_] = await stream.read("a", 1)
        late = await store.clock_ms() - due_ms
        assert 0 <= late < 500, "not early, and sooner than by its next look"
    assert len(told) <= 3
    stop.set()
    began = time.monotonic()
    await promoting
    assert time.monotonic() - began < 0.5, "told to stop, it does not sleep on"
    end()
