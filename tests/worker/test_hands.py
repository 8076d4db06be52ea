"""What waits for a change in a worker's hands hears of each at once, and does not wait for ever without one."""

from __future__ import annotations

import asyncio
import time

from scheduler.worker.hands import Hands


async def test_everybody_who_waits_hears_of_a_change_at_once() -> None:
    hands, heard = Hands(1), list[float]()
    began = time.monotonic()

    async def wait() -> None:
        await hands.change(60)
        heard.append(time.monotonic() - began)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(wait())
        await asyncio.sleep(0)
        hands.changed.set()
    assert len(heard) == 2
    assert max(heard) < 30


async def test_without_a_change_a_wait_ends_in_time_and_an_old_change_is_none() -> None:
    hands = Hands(1)
    hands.changed.set()
    began = time.monotonic()
    async with asyncio.timeout(30):
        await hands.change(0.05)
        await hands.change(-1)
    assert time.monotonic() - began >= 0.05
