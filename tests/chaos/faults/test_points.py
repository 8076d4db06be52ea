"""Crash points: what may be armed, that every one of them is a place, and that a process acts there once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from chaos.record.aim import API, worker
from chaos.record.plan import Armed as ArmedPoint
from chaos.record.plan import Plan, Planned
from chaos.scenarios import POINTS as SCENARIOS
from scheduler import Client
from scheduler.errors import ConfigurationError, StoreUnavailable
from scheduler.facts.facts import FACTS, tell
from scheduler.testing import POINTS
from scheduler.testing.points import Armed, arm
from tests.cluster import Cluster, eventually


def test_every_point_is_a_fact_of_its_own() -> None:
    assert len({point.fact for point in POINTS.values()}) == len(POINTS)
    assert {point.fact for point in POINTS.values()} <= set(FACTS)


def test_a_process_arms_the_points_of_its_role_only() -> None:
    texts = ["api.after-publish:lose", "worker.after-ack:lose@2"]
    for [own], name in ((arm(texts, "api"), "api.after-publish"), (arm(texts, "worker"), "worker.after-ack")):
        assert (own.point.name, own.point.fact.ears) == (name, [own.reach])
        own.point.fact.ears.clear()


@pytest.mark.parametrize("name", [name for name, point in POINTS.items() if point.may_lose])
def test_a_reply_is_lost_where_its_fact_is_told_and_its_store_is_named(name: str) -> None:
    point = POINTS[name]
    [armed] = arm([f"{name}:lose"], point.role)
    with pytest.raises(StoreUnavailable, match=rf"{point.fact.reply} is out of reach .*{name}"):
        tell(point.fact)
    tell(point.fact)
    assert armed.reached == 2
    point.fact.ears.clear()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("worker.after-clam:kill", "worker.after-claim"),
        ("worker.after-claim:kil", "kill"),
        ("worker.after-claim", "no such action"),
        ("worker.after-claim:kill@0", "'0' is no number from 1"),
        ("worker.handler-end:lose", "no reply"),
        ("api.before-insert:lose", "no reply"),
    ],
)
def test_what_cannot_be_armed_is_refused_with_the_nearest_word(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        Armed.parse(text)
    assert text in str(refused.value)


def test_a_point_acts_at_its_time_and_never_again() -> None:
    point = Armed.parse("worker.after-claim:lose@2")
    point.reach()
    with pytest.raises(StoreUnavailable, match=r"worker\.after-claim"):
        point.reach()
    point.reach()


def test_a_schedule_arms_the_named_start_of_a_process() -> None:
    schedule = [
        Planned(0, "pause", worker(1), 1, {"point": "worker.after-ack", "nth": 3, "start": 2}),
        Planned(0, "reply_lost", API, 0, {"point": "api.after-commit"}),
        Planned(0, "kill", worker(2), 1),
    ]
    assert Plan("x", 1, schedule=schedule).armed == {
        (worker(1), 2): ArmedPoint("worker.after-ack", "pause", 3),
        (API, 1): ArmedPoint("api.after-commit", "reply_lost"),
    }


def test_every_point_is_attacked_in_every_way_by_one_worker_and_by_two() -> None:
    for workers in (1, 2):
        for point in POINTS.values():
            ways = ["kill", "pause"] + ["reply_lost"] * point.may_lose
            assert all(f"{way}@{point.name}-{workers}" in SCENARIOS for way in ways)
    assert len(SCENARIOS) == 2 * sum(2 + point.may_lose for point in POINTS.values())


def test_nothing_of_the_points_is_loaded_while_none_is_armed() -> None:
    look = "import sys, scheduler.runtime, scheduler.__main__; print('scheduler.testing.points' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.strip() == "False"


@pytest.mark.e2e
@pytest.mark.asyncio
async def test_an_unknown_point_is_refused_at_start_and_a_known_one_kills_at_its_place(cluster: Cluster) -> None:
    cluster.settings["LEASE_SECONDS"] = "1"
    typo = cluster.start("worker", crash_points="worker.handler-stat:kill")
    assert await asyncio.to_thread(typo.wait, 30) == 2
    assert "worker.handler-start" in cluster.log()
    async with Client(await cluster.api(crash_points="worker.handler-start:kill")) as client:
        victim = await cluster.worker(crash_points="worker.handler-start:kill@2")
        first = await client.submit("NOOP", {})
        assert (await client.get(first["id"], wait=20))["status"] == "COMPLETED"
        second = await client.submit("NOOP", {})
        assert await asyncio.to_thread(victim.wait, 20) == -signal.SIGKILL
        await eventually(lambda: "crash_point point=worker.handler-start action=kill" in cluster.log())
        await cluster.worker()
        final = await client.get(second["id"], wait=30)
        assert (final["status"], final["attempt"]) == ("COMPLETED", 2)
