"""What each named fault does to a Redis client behind it: executed or not, answered or not, and at heal.

Source of the expectations: the table of faults in the field study, measured anew here on every run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.errors import FaultFailed, UsageError
from chaos.faults.catalogue import FAULTS, make_fault
from chaos.faults.fault import Fault
from chaos.faults.nemesis import Nemesis
from chaos.faults.toxiproxy import Toxiproxy
from chaos.record.aim import REDIS, Aim, link, worker
from chaos.record.history import calls
from chaos.record.plan import Planned
from chaos.record.recorder import Recorder, merge_histories
from chaos.targets.ours.target import OURS

LINK = link("worker", "redis")
GONE = link("api", "redis")
OF_NO_LINK = {
    "redis-garbage",
    "kill",
    "pause",
    "term",
    "reply_lost",
    "flush",
    "demote",
    "failover",
    "clock",
    "configure",
    "key_held",
}
pytestmark = pytest.mark.chaos


class OneLink:
    """A world of one link, one Redis and one process."""

    def __init__(
        self, toxiproxy: Toxiproxy, valkey: redis.Redis, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.toxiproxy = toxiproxy
        self._valkey = valkey
        self._process = process

    def signal(self, process: Aim, number: signal.Signals) -> int:
        assert self._process
        self._process.send_signal(number)
        return self._process.pid

    def replace(self, process: Aim) -> int:
        assert self._process
        self._process.wait(10)
        return self._process.pid

    def flush_redis(self) -> int:
        keys = self._valkey.dbsize()
        self._valkey.flushall()
        return int(keys)

    def tell_redis(self, *words: str) -> str:
        return str(self._valkey.execute_command(*words))  # type: ignore[no-untyped-call]

    def spoil_redis(self, nth: int) -> str:
        kinds = OURS.look.garbage
        name = list(kinds)[nth % len(kinds)]
        for words in kinds[name]:
            self.tell_redis(*words)
        return name

    def age_leases(self, seconds: float) -> int:
        raise AssertionError("this world has no leases")

    def hold_key(self, key: str) -> None:
        raise AssertionError("this world has no PostgreSQL")

    def free_key(self, key: str) -> None:
        raise AssertionError("this world has no PostgreSQL")

    def configure_postgres(self, name: str, value: str) -> None:
        raise AssertionError("this world has no PostgreSQL")

    def fail_over_redis(self) -> int:
        raise AssertionError("this world has one Redis")

    def part_redis(self) -> None:
        raise AssertionError("this world has one Redis")

    def await_busy(self, process: Aim, seconds: float) -> bool:
        return True

    def await_point(self, process: Aim, point: str, seconds: float) -> int | None:
        return None


@pytest.fixture
def world(toxiproxy: Toxiproxy, valkey: redis.Redis, valkey_port: int) -> OneLink:
    toxiproxy.create(LINK, f"127.0.0.1:{valkey_port}")
    return OneLink(toxiproxy, valkey)


@pytest.fixture
def client(world: OneLink) -> Iterator[redis.Redis]:
    """A client behind the link that never retries and waits at most 0.3 s, already connected."""
    port = world.toxiproxy.proxy(LINK).port
    never = Retry(NoBackoff(), 0)
    with redis.Redis(port=port, socket_timeout=0.3, socket_connect_timeout=0.3, retry=never) as connected:
        connected.ping()
        yield connected


def planned(name: str, **arguments: object) -> Fault:
    return make_fault(Planned(0, name, LINK, 1, arguments))


@pytest.mark.parametrize(
    ("name", "executed", "answer"),
    [
        ("partition.hold", False, redis.TimeoutError),
        ("partition.drop", False, redis.TimeoutError),
        ("send_lost", False, redis.TimeoutError),
        ("ack_lost", True, redis.TimeoutError),
        ("ack_lost.close", True, redis.ConnectionError),
        ("torn_reply", True, redis.ConnectionError),
        ("refuse", False, redis.ConnectionError),
        ("reset", False, redis.ConnectionError),
        ("brownout", True, None),
    ],
)
def test_a_fault_acts_as_its_name_promises_and_heals(
    world: OneLink,
    client: redis.Redis,
    valkey: redis.Redis,
    name: str,
    *,
    executed: bool,
    answer: type[Exception] | None,
) -> None:
    arguments = {"torn_reply": {"bytes": 1}, "brownout": {"latency_ms": 50}}.get(name, {})
    fault = planned(name, **arguments)
    fault.inject(world)
    if answer is None:
        client.incr("n")
    else:
        with pytest.raises(answer):
            client.incr("n")
    assert (valkey.get("n") is not None) is executed
    fault.heal(world)
    assert world.toxiproxy.proxy(LINK).is_healthy
    with redis.Redis(port=world.toxiproxy.proxy(LINK).port, socket_timeout=5) as fresh:
        assert fresh.ping()


def test_a_held_request_executes_at_heal_and_a_dropped_one_never_does(
    world: OneLink, client: redis.Redis, valkey: redis.Redis
) -> None:
    for name, runs in (("partition.hold", b"1"), ("partition.drop", None)):
        fault, key = planned(name), f"n-{name}"
        client.ping()
        fault.inject(world)
        with pytest.raises(redis.TimeoutError):
            client.incr(key)
        fault.heal(world)
        with redis.Redis(port=world.toxiproxy.proxy(LINK).port, socket_timeout=5) as fresh:
            fresh.ping()
        assert valkey.get(key) == runs


def test_a_demoted_redis_takes_no_writes_keeps_what_it_has_and_takes_them_again(
    world: OneLink, client: redis.Redis, valkey: redis.Redis
) -> None:
    fault = planned("demote")
    client.set("kept", 1)
    fault.inject(world)
    with pytest.raises(redis.ReadOnlyError):
        client.set("refused", 1)
    assert client.get("kept") == b"1"
    fault.heal(world)
    fault.heal(world)
    assert client.set("taken", 1)
    assert valkey.get("kept") == b"1"


def test_every_kind_of_garbage_can_be_put_into_redis_one_after_the_other(world: OneLink, valkey: redis.Redis) -> None:
    kinds = OURS.look.garbage
    assert len(kinds) >= 30
    for nth in range(-1, len(kinds)):
        valkey.flushall()
        valkey.xgroup_create(OURS.look.stream, OURS.look.group, "0", mkstream=True)
        fault = make_fault(Planned(0, "redis-garbage", REDIS, 0, {"nth": nth}))
        assert fault.inject(world) == {"kinds": [list(kinds)[nth]]}
        assert valkey.dbsize() >= 1
        assert fault.heal(world) == {}


def test_every_link_fault_heals_twice_without_an_error(world: OneLink) -> None:
    for name in sorted(FAULTS.keys() - OF_NO_LINK):
        fault = planned(name)
        fault.inject(world)
        fault.heal(world)
        fault.heal(world)
        assert world.toxiproxy.proxy(LINK).is_healthy, name


def test_a_fault_at_a_crash_point_says_that_it_wants_one() -> None:
    with pytest.raises(UsageError, match="reply_lost on worker-redis has no `point`"):
        planned("reply_lost")


def test_an_unknown_fault_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'partition\.hold'"):
        planned("partition.hodl")


@given(st.text(max_size=20))
def test_no_name_outside_the_table_makes_a_fault(name: str) -> None:
    if name not in FAULTS:
        with pytest.raises(UsageError):
            planned(name)


class TestNemesis:
    @pytest.fixture
    def history(self, tmp_path: Path) -> Path:
        return tmp_path / "history.jsonl"

    @pytest.fixture
    def recorder(self, history: Path) -> Iterator[Recorder]:
        recorder = Recorder(history)
        yield recorder
        recorder.close()

    def test_faults_and_heals_are_recorded_as_pairs(
        self, world: OneLink, valkey: redis.Redis, recorder: Recorder, history: Path
    ) -> None:
        valkey.set("key", 1)
        nemesis, cut, flush = Nemesis(world, recorder), planned("refuse"), planned("flush")
        nemesis.inject(cut)
        nemesis.inject(flush)
        nemesis.heal_all()
        pairs = calls(merge_histories([history]), process="nemesis")
        assert [(pair.begun.f, pair.type) for pair in pairs] == [
            ("refuse", "ok"),
            ("flush", "ok"),
            ("heal", "ok"),
            ("heal", "ok"),
        ]
        assert pairs[1].done is not None
        assert pairs[1].done.value == {"target": "redis", "keys": 1}
        assert world.toxiproxy.proxy(LINK).is_healthy

    def test_half_an_injection_is_healed_and_recorded_as_unknown(
        self, world: OneLink, recorder: Recorder, history: Path
    ) -> None:
        hold = planned("partition.hold")
        world.toxiproxy.add_toxic(LINK, hold.toxics[1])  # type: ignore[attr-defined]
        nemesis = Nemesis(world, recorder)
        with pytest.raises(Exception, match="409"):
            nemesis.inject(hold)
        nemesis.heal_all()
        assert world.toxiproxy.proxy(LINK).is_healthy
        assert [pair.type for pair in calls(merge_histories([history]))] == ["info", "ok"]

    def test_a_fault_that_cannot_heal_does_not_keep_the_others_from_healing(
        self, world: OneLink, recorder: Recorder
    ) -> None:
        nemesis, stuck = Nemesis(world, recorder), make_fault(Planned(0, "refuse", GONE, 1))
        world.toxiproxy.create(GONE, "127.0.0.1:1")
        nemesis.inject(planned("refuse"))
        nemesis.inject(stuck)
        world.toxiproxy.delete(GONE)
        with pytest.raises(FaultFailed, match="refuse on api-redis"):
            nemesis.heal_all()
        assert world.toxiproxy.proxy(LINK).is_healthy

    def test_a_paused_process_stands_still_until_healed(self, toxiproxy: Toxiproxy, valkey: redis.Redis) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            world = OneLink(toxiproxy, valkey, process)
            pause = make_fault(Planned(0, "pause", worker(1), 1, {"when_busy": True}))
            try:
                pause.await_moment(world)
                assert pause.inject(world) == {"pid": process.pid}
                assert _state(process.pid) == "T"
                pause.heal(world)
                assert _state(process.pid) != "T"
            finally:
                process.kill()

    def test_a_killed_process_is_replaced_at_heal(self, toxiproxy: Toxiproxy, valkey: redis.Redis) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            kill = make_fault(Planned(0, "kill", worker(1), 1))
            world = OneLink(toxiproxy, valkey, process)
            kill.inject(world)
            kill.heal(world)
            assert process.returncode == -signal.SIGKILL


def _state(pid: int) -> str:
    """The process's state once it is at rest: stopped or asleep."""
    deadline = time.monotonic() + 5
    while (state := Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]) not in "TS":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return state
