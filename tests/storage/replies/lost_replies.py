"""A world in which the reply to a chosen command is lost: the command has run, and its sender cannot know.

The product's clients go through a tripwire and a real Toxiproxy to the real servers; the harness looks at the same
stores past both. A `Case` is a story about one command: arrange, lose the reply, look, go on as the product does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from chaos.faults.catalogue import make_fault
from chaos.faults.links import LinkFault
from chaos.faults.toxiproxy import Toxiproxy
from chaos.record.aim import Aim
from chaos.record.plan import Planned
from scheduler.errors import StoreUnavailable
from scheduler.jobs.job import Outcome
from scheduler.storage.postgres import Postgres
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.storage.factory import live_worker
from tests.storage.replies.links import Tripwire, postgres_commands, redis_commands, with_port

# Both import this module, so this comes first: their assertions are to say as much as those of a test file.
pytest.register_assert_rewrite("tests.storage.replies.lost_replies_store", "tests.storage.replies.lost_replies_stream")

REDIS, POSTGRES = "redis", "postgres"
SILENT, CLOSING = "ack_lost", "ack_lost.close"
DEADLINE_SECONDS = 0.3
# What no deadline of the product may exceed here: the blocking read's, 1.3 s, on a busy machine.
PATIENCE_SECONDS = 5.0
TABLES = ("jobs", "attempts", "dead_letters", "workers", "types")


@dataclass
class World:
    """`store` and `stream` are the product's, behind the link; `record` and `index` show the same past it."""

    toxiproxy: Toxiproxy
    fault: str
    record: Store
    index: Stream
    store: Store
    stream: Stream
    wires: dict[str, Tripwire]
    database_url: str
    reply: int = 1
    lost: list[str] = field(default_factory=list)

    async def lose(self, call: Awaitable[Any], *, raises: type[Exception] | None = StoreUnavailable) -> None:
        """Await `call` while the reply to its `reply`-th command is lost. The command must run, and run once."""
        await self.index._redis.config_resetstat()
        self.arm()
        self.store.postgres._deadline, patience = DEADLINE_SECONDS, self.store.postgres._deadline
        error: BaseException | None = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await call
        except Exception as raised:
            error = raised
        finally:
            self.store.postgres._deadline = patience
        await self.healed()
        seen = [command for wire in self.wires.values() for command in wire.seen]
        assert len(seen) == self.reply, f"of {self.reply} commands, the last one unanswered, these were sent: {seen}"
        assert type(error) is (raises or type(None)), f"{error!r} came of a lost reply"
        await self._ran_once(self.wires[REDIS].seen)
        self.lost += seen[-1:]

    def arm(self) -> None:
        """From now on the reply to the `reply`-th command is lost, and with it its connection, and nothing else."""
        for link, wire in self.wires.items():
            wire.set(self.reply, partial(self._poison, link), partial(self._heal, link))

    async def healed(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for wire in self.wires.values():
                await wire.released()

    async def _ran_once(self, commands: list[str]) -> None:
        """The server has run what was sent, no more and no less."""
        ran = await self.index._redis.info("commandstats")
        for command, times in Counter(commands).items():
            assert ran[f"cmdstat_{command}"]["calls"] == times, command

    def _poison(self, link: str) -> None:
        for toxic in self._toxics():
            self.toxiproxy.add_toxic(link, toxic)

    def _heal(self, link: str) -> None:
        for toxic in self._toxics():
            self.toxiproxy.remove_toxic(link, toxic.label)

    def _toxics(self) -> Sequence[Any]:
        made = make_fault(Planned(0, self.fault, Aim("worker-redis"), 1, {}))
        assert isinstance(made, LinkFault)
        return made.toxics

    async def snapshot(self) -> list[Any]:
        """All that both stores hold."""
        redis, index = self.index._redis, self.index
        held: list[Any] = [await redis.xrange(key) for key in (index.stream, index.dlq)]
        held += [sorted(await redis.smembers(index._lanes))]
        held += [await redis.zrange(index.retry, 0, -1, withscores=True), await index.dead_ids()]
        held += [
            await redis.xinfo_groups(index.stream),
            await redis.xpending_range(index.stream, index.group, "-", "+", 9),
        ]
        for pending in held[-1]:
            pending.pop("time_since_delivered")
        for table in TABLES:
            held.append(await self.record.postgres.fetch(f"SELECT t::text FROM scheduler.{table} t ORDER BY 1"))
        return held

    async def work_off(self) -> list[bytes]:
        """As a worker does: read, claim, complete, acknowledge, until nothing is left. The jobs that were run."""
        worker, consumer = await live_worker(self.record), "another"
        ran: list[bytes] = []
        deliveries = await self.index.own_pending(consumer, 99)
        while deliveries or (await self.index.lengths()).stream:
            for delivery in deliveries:
                jobs = await self.record.claim(worker, [delivery.job_id])
                assert (await self.record.complete([Outcome.complete(job, None) for job in jobs])).lost == []
                ran += [job.id for job in jobs]
                await self.index.ack([delivery.entry])
            await self.index.trim()
            deliveries = await self.index._read_group(consumer, 99, ">")
        lengths = await self.index.lengths()
        assert (lengths.stream, lengths.pending) == (0, 0)
        return ran

    async def reconciled(self) -> list[bytes]:
        """As the reconciler does once the time of what is due has come: the jobs it publishes."""
        await self.record.postgres.fetch(
            "UPDATE scheduler.jobs SET reconcile_at = reconcile_at - interval '1 hour',"
            " run_at = run_at - interval '1 hour' WHERE status = 'PENDING'"
        )
        found = await self.record.overlooked(0.0, 99)
        assert all(job.due_ms is None for job in found)
        await self.index.publish([job.id for job in found])
        return [job.id for job in found]


Story = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Case:
    """One command's story, told once for each of its `replies`; `faults` are the ways in which they are lost."""

    command: str
    story: Story
    replies: int = 1
    faults: tuple[str, ...] = (SILENT, CLOSING)

    @property
    def id(self) -> str:
        return f"{self.command}: {self.story.__name__.replace('_', ' ')}"


class Table(list[Case]):
    """The cases of one store."""

    def of(self, command: Callable[..., Any], **more: Any) -> Callable[[Story], Story]:
        """Enter the decorated story about `command`."""

        def enter(story: Story) -> Story:
            self.append(Case(command.__qualname__, story, **more))
            return story

        return enter


@asynccontextmanager
async def world(
    toxiproxy: Toxiproxy, database_url: str, redis_url: str, stream: str, fault: str
) -> AsyncIterator[World]:
    """Both stores emptied, and the product's clients connected through links that are healthy so far."""
    async with AsyncExitStack() as stack:
        wires = {
            REDIS: Tripwire(toxiproxy.proxy(REDIS).port, redis_commands),
            POSTGRES: Tripwire(toxiproxy.proxy(POSTGRES).port, postgres_commands),
        }
        for wire in wires.values():
            await stack.enter_async_context(wire.open())
        record, index = _clients(database_url, redis_url, stream, PATIENCE_SECONDS)
        far_database = with_port(database_url, wires[POSTGRES].port)
        store, far_stream = _clients(far_database, with_port(redis_url, wires[REDIS].port), stream, DEADLINE_SECONDS)
        for client in (record, index, store, far_stream):
            stack.push_async_callback(client.close)
        own = World(toxiproxy, fault, record, index, store, far_stream, wires, far_database)
        await _empty(own)
        await store.clock_ms()
        await far_stream.require_writable()
        await far_stream._reader.ping()
        yield own


def _clients(database_url: str, redis_url: str, stream: str, deadline_seconds: float) -> tuple[Store, Stream]:
    return (
        Store(Postgres(database_url, size=2, deadline_seconds=PATIENCE_SECONDS, name="tests")),
        Stream(redis_url, stream=stream, group="workers", deadline_seconds=deadline_seconds, name="tests"),
    )


async def _empty(own: World) -> None:
    await own.record.postgres.fetch("WITH j AS (DELETE FROM scheduler.jobs) DELETE FROM scheduler.workers")
    await own.record.postgres.fetch("WITH a AS (DELETE FROM scheduler.audit) DELETE FROM scheduler.api_keys")
    await own.index._redis.flushall()
    await own.index.ensure_group()
    for script in own.index._scripts.values():
        await own.index._redis.script_load(script.script)
