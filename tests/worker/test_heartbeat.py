"""The heartbeat's thread on a real store: when its lease is held, and for how long it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from scheduler.embedded import free_port
from scheduler.jobs.job import id_text
from scheduler.storage.store import Store
from scheduler.worker.heartbeat import Heartbeat
from tests.cluster import eventually
from tests.storage.factory import live_worker, new_id


@asynccontextmanager
async def beating(url: str, worker: bytes) -> AsyncIterator[Heartbeat]:
    heartbeat = Heartbeat(
        url,
        worker,
        name="w",
        lease_seconds=0.5,
        types=["NOOP"],
        on_cancelled=lambda ids: pytest.fail(f"{ids} were not cancelled"),
        on_lapse=lambda: pytest.fail("nothing has lapsed"),
    )
    heartbeat.start()
    try:
        yield heartbeat
    finally:
        await heartbeat.stop()


async def test_a_worker_is_registered_once_its_lease_is_in_the_record(database_url: str, store: Store) -> None:
    worker = new_id()
    async with beating(database_url, worker) as heartbeat:
        async with asyncio.timeout(10):
            assert await heartbeat.registered(asyncio.Event())
        assert [live.id for live in await store.workers()] == [id_text(worker)]


async def test_who_is_stopped_before_a_lease_is_held_does_not_wait_for_it() -> None:
    stop = asyncio.Event()
    async with beating(f"postgresql://127.0.0.1:{free_port()}/none", new_id()) as heartbeat:
        asyncio.get_running_loop().call_later(0.1, stop.set)
        async with asyncio.timeout(10):
            assert not await heartbeat.registered(stop)


async def test_a_lease_whose_first_reply_was_lost_is_steady_all_the_same(database_url: str, store: Store) -> None:
    """Else this worker would never rescue anybody."""
    worker = await live_worker(store)  # the beat that took it, and that nobody heard of
    async with beating(database_url, worker) as heartbeat:
        assert await heartbeat.registered(asyncio.Event())
        await eventually(lambda: heartbeat.steady_seconds > 0.1, within=5)
