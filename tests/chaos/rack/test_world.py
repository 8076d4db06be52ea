"""What the world does to the stores themselves, measured against real ones: a failover, a held key, settings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from chaos.errors import FaultFailed
from chaos.faults.catalogue import make_fault
from chaos.rack.pair import Pair, at
from chaos.rack.servers import Servers
from chaos.rack.stack import Shape, Stack
from chaos.rack.world import StackWorld
from chaos.record.aim import POSTGRES, REDIS
from chaos.record.plan import Plan, Planned, Settings
from chaos.record.runs import Folder
from chaos.targets.ours.target import LOOK
from scheduler.embedded import Redis

pytestmark = [pytest.mark.chaos, pytest.mark.e2e]
KEYS = "SELECT count(*) FROM scheduler.jobs WHERE idempotency_key = 'k'"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, StackWorld]]:
    """Of a stack without workers, with a replica of Redis."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "logs").mkdir()
    settings = Settings(workers=0, replica=True)
    with (
        Servers(toxiproxy_port=None) as servers,
        Stack(Plan("bench", 1, settings), Folder(folder), servers, Shape(proxied=False)) as stack,
    ):
        yield stack, StackWorld(stack)


def connected(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=30, decode_responses=True)


def test_a_failover_leaves_connections_where_they_are_and_brings_back_what_has_grown_stale(
    world: tuple[Stack, StackWorld],
) -> None:
    stack, breaks = world
    url, fault = stack.redis_url, make_fault(Planned(0, "failover", REDIS, 1))
    with connected(url) as old, connected(url) as later, connected(url) as last:
        old.set("seen", "by both")
        old.wait(1, 20_000)
        first = old.info("server")["tcp_port"]
        second = fault.inject(breaks)["port"]
        with pytest.raises(redis.ReadOnlyError):
            old.set("lost", 1)
        assert old.info("server")["tcp_port"] == first
        assert later.info("server")["tcp_port"] == second
        assert later.get("seen") == "by both"
        later.set("grown", "before they part")
        later.wait(1, 20_000)
        fault.heal(breaks)
        fault.heal(breaks)
        later.set("grown", "since they parted")
        assert fault.inject(breaks)["port"] == first
        assert last.get("grown") == "before they part"
        assert last.set("taken", 1)
        fault.heal(breaks)


def test_after_the_block_the_first_server_takes_writes_again_and_the_other_is_gone(tmp_path: Path) -> None:
    with Redis(tmp_path) as server:
        url = server.url
        with Pair(server) as pair:
            other = pair.fail_over()
            pair.part()
        with connected(server.url) as client:
            assert client.set("taken", 1)
        with pytest.raises(redis.ConnectionError):
            connected(at(url, other)).ping()


def test_a_stack_without_a_replica_says_what_it_lacks(world: tuple[Stack, StackWorld]) -> None:
    stack, _ = world
    alone = Stack(Plan("bench", 1), stack.folder, stack.servers)
    with pytest.raises(FaultFailed, match="no replica of Redis"):
        StackWorld(alone).fail_over_redis()


def test_a_key_is_held_until_heal_and_leaves_no_job(world: tuple[Stack, StackWorld]) -> None:
    stack, breaks = world
    fault = make_fault(Planned(0, "key_held", POSTGRES, 1, {"key": "k"}))
    with psycopg.connect(stack.database_url, autocommit=True, options="-c lock_timeout=50ms") as other:
        assert fault.inject(breaks) == {"key": "k"}
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(LOOK.hold_key.encode(), {"key": "k"})
        fault.heal(breaks)
        fault.heal(breaks)
        other.execute("SET lock_timeout = '5s'")
        other.execute(LOOK.hold_key.encode(), {"key": "k"})
        assert other.execute(KEYS.encode()).fetchall() == [(1,)]


def test_new_sessions_have_a_setting_and_those_that_stand_have_not(world: tuple[Stack, StackWorld]) -> None:
    stack, breaks = world
    with psycopg.connect(stack.database_url) as standing:
        for name, value in (("synchronous_commit", "off"), ("default_transaction_read_only", "on")):
            fault = make_fault(Planned(0, "configure", POSTGRES, 0, {"name": name, "value": value}))
            assert fault.inject(breaks) == {"name": name, "value": value}
            assert fault.heal(breaks) == {}
            with psycopg.connect(stack.database_url) as fresh:
                assert fresh.execute(f"SHOW {name}".encode()).fetchall() == [(value,)]
            assert standing.execute(f"SHOW {name}".encode()).fetchall() != [(value,)]
        make_fault(Planned(0, "configure", POSTGRES, 0)).inject(breaks)  # though sessions are read-only by now
    with pytest.raises(FaultFailed, match="no_such_setting"):
        breaks.configure_postgres("no_such_setting", "1")
