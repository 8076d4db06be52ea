"""Every command that the product sends, with its reply lost after it ran: raised in time, run once, made up for."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec import Raw, Struct
from msgspec.structs import astuple
from redis.asyncio import Redis

from chaos.faults.toxiproxy import Toxiproxy
from chaos.rack.toxiproxy_server import ToxiproxyServer
from scheduler.embedded import Stores
from scheduler.jobs.job import Outcome
from scheduler.storage.postgres import Postgres
from scheduler.storage.rows import Letter
from scheduler.storage.schema import migrate
from scheduler.storage.store import Store
from scheduler.storage.stream import Stream
from tests.storage.factory import dead, live_worker, new_id, running, submitted
from tests.storage.replies.lost_replies import CLOSING, POSTGRES, REDIS, SILENT, Case, World, world
from tests.storage.replies.lost_replies_access import ON_ACCESS
from tests.storage.replies.lost_replies_store import ON_POSTGRES
from tests.storage.replies.lost_replies_stream import ME, ON_REDIS

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[3]
CASES = [*ON_REDIS, *ON_POSTGRES, *ON_ACCESS]


@pytest.fixture(scope="module")
def database(stores: Stores) -> Iterator[str]:
    """One for the whole module, emptied before each test."""
    with psycopg.connect(stores.postgres.url, autocommit=True, connect_timeout=5) as connection:
        connection.execute("CREATE DATABASE lost_replies")
        url = stores.postgres.url.rsplit("/", 1)[0] + "/lost_replies"
        asyncio.run(_migrated(url))
        yield url
        connection.execute("DROP DATABASE lost_replies WITH (FORCE)")


async def _migrated(url: str) -> None:
    postgres = Postgres(url, size=1, deadline_seconds=30, name="tests")
    await migrate(postgres)
    await postgres.close()


@pytest.fixture(scope="module")
def toxiproxy(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    """A server with one link to each store."""
    with ToxiproxyServer(tmp_path_factory.mktemp("toxiproxy"), cache=ROOT / ".cache") as server:
        client = Toxiproxy(port=server.port)
        client.create(REDIS, f"127.0.0.1:{stores.redis.port}")
        client.create(POSTGRES, f"127.0.0.1:{stores.postgres.port}")
        yield client


@pytest.fixture
async def w(
    request: pytest.FixtureRequest, toxiproxy: Toxiproxy, database: str, stores: Stores
) -> AsyncIterator[World]:
    fault = getattr(request, "param", SILENT)
    async with world(toxiproxy, database, stores.redis.url, "lost_replies", fault) as own:
        yield own


EACH_REPLY = [
    pytest.param(case, reply, fault, id=f"{case.id} ({reply} of {case.replies}, {fault})")
    for case in CASES
    for reply in range(1, case.replies + 1)
    for fault in case.faults
]


@pytest.mark.parametrize(("case", "reply", "w"), EACH_REPLY, indirect=["w"])
async def test_a_command_whose_reply_is_lost_has_run_once_and_going_on_loses_and_doubles_nothing(
    case: Case, reply: int, w: World
) -> None:
    w.reply = reply
    await case.story(w)
    assert len(w.lost) == 1, "the story loses one reply"


# -- commands that only look


@dataclass(frozen=True, slots=True)
class Scene:
    """Something of everything, for those who look."""

    worker: bytes
    pending: bytes
    running: bytes
    retried: bytes
    letter: bytes


async def scene_of(w: World) -> Scene:
    worker = await live_worker(w.record)
    [pending] = await submitted(w.record)
    job, failed = await running(w.record, worker), await running(w.record, worker)
    due_ms = (await w.record.settle([Outcome.retry(failed, "why", 9.0)])).due_ms
    letter = await dead(w.record)
    await w.index.publish([pending, job.id])
    await w.index.read(ME, 9)
    await w.index.schedule(due_ms)
    await w.index.dead_letter([Letter(letter, "NOOP", "because")])
    return Scene(worker, pending, job.id, failed.id, letter)


@dataclass(frozen=True, slots=True)
class Eyes:
    """Who looks at the scene: the product's clients, or the harness's."""

    store: Store
    stream: Stream
    scene: Scene


Look = Callable[[Eyes], Awaitable[Any]]
LOOKS: dict[Callable[..., Any], tuple[int, Look]] = {
    Store.clock_ms: (1, lambda by: by.store.clock_ms()),
    Store.accepted: (1, lambda by: by.store.accepted([by.scene.pending], ["no such key"])),
    Store.not_held: (1, lambda by: by.store.not_held(by.scene.worker, [by.scene.running, by.scene.letter])),
    Store.held_by: (1, lambda by: by.store.held_by(by.scene.worker)),
    Store.orphans: (1, lambda by: by.store.orphans(9)),
    Store.keys: (1, lambda by: by.store.keys()),
    Store.workers: (1, lambda by: by.store.workers()),
    Store.leases: (1, lambda by: by.store.leases()),
    Store.fleet: (1, lambda by: by.store.fleet()),
    Store.payload: (1, lambda by: by.store.payload(by.scene.pending)),
    Store.job: (2, lambda by: by.store.job(by.scene.retried)),
    Store.finished: (1, lambda by: by.store.finished([by.scene.letter, by.scene.pending])),
    Store.page: (1, lambda by: by.store.page(None, None, None, 9)),
    Store.dead_page: (1, lambda by: by.store.dead_page(None, None, 9)),
    Store.backlog: (1, lambda by: by.store.backlog(9)),
    Store.starved_seconds: (1, lambda by: by.store.starved_seconds()),
    Store.live_counts: (1, lambda by: by.store.live_counts(9)),
    Store.dead_letters: (1, lambda by: by.store.dead_letters(99)),
    Store.dead_digest: (1, lambda by: by.store.dead_digest(99)),
    Store.dead_count: (1, lambda by: by.store.dead_count()),
    Store.match_dead: (1, lambda by: by.store.match_dead(None, None, None, None, 9)),
    Stream.require_writable: (1, lambda by: by.stream.require_writable()),
    Stream.flaws: (7, lambda by: by.stream.flaws()),
    Stream.length: (1, lambda by: by.stream.length()),
    Stream.next_due: (1, lambda by: by.stream.next_due()),
    Stream.consumers: (1, lambda by: by.stream.consumers()),
    Stream.dead_ids: (1, lambda by: by.stream.dead_ids()),
    Stream.dead_digest: (1, lambda by: by.stream.dead_digest()),
    Stream.lengths: (1, lambda by: by.stream.lengths()),
}


EACH_LOOK = [
    pytest.param(look, reply, fault, id=f"{command.__qualname__} ({reply} of {replies}, {fault})")
    for command, (replies, look) in LOOKS.items()
    for reply in range(1, replies + 1)
    for fault in ((SILENT, CLOSING) if reply == 1 else (CLOSING,))
]


def _without_clocks(value: Any) -> Any:
    if isinstance(value, Struct):
        value = astuple(value)
    if is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.astuple(value)
    if isinstance(value, (list, tuple)):
        return [_without_clocks(one) for one in value]
    return None if isinstance(value, float) else bytes(value) if isinstance(value, Raw) else value


@pytest.mark.parametrize(("look", "reply", "w"), EACH_LOOK, indirect=["w"])
async def test_a_look_whose_reply_is_lost_changes_nothing_and_is_answered_the_next_time(
    look: Look, reply: int, w: World
) -> None:
    scene, w.reply = await scene_of(w), reply
    product, harness = Eyes(w.store, w.stream, scene), Eyes(w.record, w.index, scene)
    before = await w.snapshot()
    await w.lose(look(product))
    assert await w.snapshot() == before
    assert _without_clocks(await look(product)) == _without_clocks(await look(harness))


# -- the table itself

WITHOUT_COMMAND = {"Store.close", "Stream.close"}


def test_every_command_of_both_stores_is_in_the_table() -> None:
    commands = {
        method.__qualname__
        for store in (Store, Stream)
        for name, method in inspect.getmembers(store, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    told = {case.command for case in CASES} | {command.__qualname__ for command in LOOKS}
    assert told == (commands - WITHOUT_COMMAND) | {"submit", "migrate"}


# -- the control: a client that repeats by itself


async def test_a_client_with_the_default_retries_doubles_what_ours_sends_once(w: World) -> None:
    # Only the constructor brings the default retries; `from_url` would leave them out.
    kept = w.index._redis.connection_pool.connection_kwargs
    who = {name: kept[name] for name in ("username", "password")}
    async with Redis(port=w.wires[REDIS].port, socket_timeout=0.3, **who) as eager:
        await eager.ping()
        w.arm()
        await eager.xadd(w.index.stream, {"id": new_id()})
    await w.healed()
    assert await w.index._redis.xlen(w.index.stream) == 2
    await w.index._redis.xtrim(w.index.stream, maxlen=0)
    await w.stream.require_writable()  # its connection is back: a lost reply of its log-in would be another story
    await w.lose(w.stream.publish([new_id()]))
    assert await w.index._redis.xlen(w.index.stream) == 1
