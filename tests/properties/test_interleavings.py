"""Workers, rescuers and users at once on the real store: whatever the interleaving, no rule of the record is broken."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scheduler.jobs.job import Outcome
from scheduler.jobs.lifecycle import Status, Transition
from scheduler.storage.postgres import Connection, Ids, Postgres
from scheduler.storage.store import QUERIES, Store
from tests.cluster import eventually
from tests.properties.interleavings import Plan, Record, Step, carry_out, judge, watched
from tests.storage.factory import claim_of, expire, live_worker, running, value
from tests.storage.factory import dead as dead_letter

pytestmark = pytest.mark.properties

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
ACTORS, JOBS = 4, 4
KINDS = (
    *("claim", "claim", "claim", "settle", "settle", "settle", "settle", "complete"),
    *("rescue", "heartbeat", "expire", "cancel", "redrive", "redrive"),
)
OUTCOMES = (Transition.COMPLETE, Transition.RETRY, Transition.FAIL, Transition.SNOOZE, Transition.RELEASE)
steps = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    jobs=st.lists(st.integers(0, JOBS - 1), min_size=1, max_size=JOBS, unique=True).map(tuple),
    outcome=st.sampled_from(OUTCOMES),
    twice=st.booleans(),
    stale=st.booleans(),
    other=st.integers(0, ACTORS - 1),
)
CLAIM, RESCUE, BEAT, DIE = Step("claim"), Step("rescue"), Step("heartbeat"), Step("expire")
plans = st.lists(st.lists(steps, min_size=4, max_size=12), min_size=3, max_size=ACTORS)


class Stage:
    """A watched database, and a store with two connections for each actor; [0] prepares and looks."""

    def __init__(self, runner: asyncio.Runner, database_url: str) -> None:
        self._runner = runner
        runner.run(watched(database_url))
        names = ["looker", *(f"actor {n}" for n in range(ACTORS))]
        self._stores = [Store(Postgres(database_url, size=2, deadline_seconds=10, name=name)) for name in names]

    def play(self, plan: Plan, max_attempts: int = 2) -> Record:
        return self._runner.run(carry_out(plan, self._stores, JOBS, max_attempts))

    def close(self) -> None:
        for store in self._stores:
            self._runner.run(store.close())


@pytest.fixture
def stage(database_url: str) -> Iterator[Stage]:
    with asyncio.Runner() as runner:
        own = Stage(runner, database_url)
        yield own
        own.close()


def happened(record: Record) -> Counter[str]:
    """How often there was something to get wrong."""
    return Counter(
        {
            "claims": len(record.claims),
            "repeated claims": sum(change.is_repeated_claim for change in record.changes),
            "ends": sum(change.is_end for change in record.changes),
            "rescues": sum(change.is_rescue for change in record.changes),
            "outcomes that came too late": sum(answer.lost for answer in record.answers),
            "dead letters": sum(change.now is Status.FAILED for change in record.changes),
            "redriven": sum(change.is_result_of(Transition.REDRIVE) for change in record.changes),
            "cancelled while running": sum(c.is_end and c.now is Status.CANCELLED for c in record.changes),
        }
    )


def test_no_interleaving_of_real_connections_breaks_a_rule_of_the_record(stage: Stage) -> None:
    met: Counter[str] = Counter()

    # An interleaving is not in the plan, so nothing is gained by shrinking: the record is the evidence.
    @settings(max_examples=2_000 if LONG else 120, phases=[Phase.generate])
    @given(plan=plans, max_attempts=st.integers(1, 3))
    def play(plan: Plan, max_attempts: int) -> None:
        record = stage.play(plan, max_attempts)
        findings = judge(record)
        assert not findings, "\n".join([*findings, *map(str, record.changes), *map(str, record.answers)])
        met.update(happened(record))

    play()
    assert min(met.values()) > 0, f"nothing is proved about what never happened: {met}"


# -- found by the property, and pinned: who waits for a row lock must look again at all that it decided by


@asynccontextmanager
async def waited_for(store: Store, waiting: Coroutine[Any, Any, Any]) -> AsyncIterator[Connection]:
    """A transaction that `waiting` has to wait for once it is entered and its block has run."""
    async with store.postgres.use(deadline_seconds=10) as connection, connection.transaction():
        yield connection
        late = asyncio.ensure_future(waiting)
        blocked = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        await eventually(lambda: store.postgres.fetch(blocked), every=0.005, of="a statement that waits for a lock")
    await late


async def test_a_rescue_that_waited_takes_no_job_from_the_living_worker_that_claimed_it_meanwhile(store: Store) -> None:
    dead, alive = await live_worker(store), await live_worker(store)
    job = await running(store, dead, max_attempts=2)
    await expire(store, dead)
    seen = [Outcome.crash(held) for held in await store.orphans(9)]
    async with waited_for(store, store.rescue(seen)) as others:
        await others.execute("UPDATE scheduler.jobs SET status = 'PENDING'")
        await others.execute(QUERIES["claim"], claim_of(alive, job.id), binary=True)
    assert await value(store, "status, attempt, fence, worker_id", job.id) == ("PROCESSING", 2, 2, alive)
    assert await store.dead_letters(99) == []


async def test_a_purge_that_waited_deletes_no_job_that_was_redriven_meanwhile(store: Store) -> None:
    letter = await dead_letter(store)
    async with waited_for(store, store.purge([letter])) as others:
        await others.execute(QUERIES["redrive"], {"ids": Ids([letter]), "interval": 0.0}, binary=True)
    assert await value(store, "status", letter) == "PENDING"


@pytest.mark.parametrize("outcome", [Transition.RETRY, Transition.SNOOZE, Transition.RELEASE])
def test_an_outcome_that_a_rescue_came_before_is_told_that_it_is_lost(stage: Stage, outcome: Transition) -> None:
    record = stage.play([(CLAIM, DIE, RESCUE, Step("settle", outcome=outcome))])
    assert [(change.now, change.is_rescue) for change in record.changes if change.is_end] == [(Status.PENDING, True)]
    assert [answer.lost for answer in record.answers] == [True]


# -- controls: a broken statement, who meets it, and the rule that must notice

COMPLETE, CANCEL = Step("complete"), Step("cancel")
FAIL, SNOOZE = Step("settle", outcome=Transition.FAIL), Step("settle", outcome=Transition.SNOOZE)
LATE, LATE_SETTLE = Step("complete", stale=True), Step("settle", stale=True)
AGAIN = (CLAIM, DIE, RESCUE, BEAT, CLAIM)
ONE_WINNER = "status = 'PROCESSING' AND worker_id = %(worker)s OR status = 'PENDING' AND run_at <= now()"

BROKEN: dict[str, tuple[str, str, str, Plan, str]] = {
    "completing ignores the fence": ("complete", "fence = %(fence)s", "%(fence)s > 0", [(*AGAIN, LATE)], "answered"),
    "settling ignores the fence": ("settle", "j.fence = o.fence", "true", [(*AGAIN, LATE_SETTLE)], "answered"),
    "completing ignores the status": ("complete", "status = 'PROCESSING'", "true", [(CLAIM, FAIL, COMPLETE)], "final"),
    "settling ignores the status": ("settle", "j.status = 'PROCESSING'", "true", [(CLAIM, COMPLETE, FAIL)], "final"),
    "cancelling ignores the end": ("cancel", "finished_at IS NULL", "true", [(CLAIM, COMPLETE, CANCEL)], "final"),
    "claiming takes what another holds": ("claim", ONE_WINNER, "finished_at IS NULL", [(CLAIM,), (CLAIM,)], "legal"),
    "claiming counts no attempt": ("claim", "WHEN 'PENDING' THEN 1", "WHEN 'PENDING' THEN 0", [(CLAIM,)], "legal"),
    "claiming keeps the fence": ("claim", "fence = fence + 1", "fence = fence", [(CLAIM, SNOOZE, CLAIM)], "claimed"),
    "a fence ends twice": ("claim", "fence = fence + 1", "fence = 1", [(CLAIM, SNOOZE, CLAIM, SNOOZE)], "ended"),
    "a cancellation is told twice": (
        "cancel",
        "SELECT id FROM cancelled",
        "SELECT %(id)s::uuid",
        [(CANCEL, CANCEL)],
        "told",
    ),
    "failing leaves no letter": ("settle", "WHERE status = 'FAILED'", "WHERE false", [(CLAIM, FAIL)], "letters"),
    "failing leaves no record": ("settle", "WHERE error IS NOT NULL", "WHERE false", [(CLAIM, FAIL)], "recorded"),
}


def rules_broken(record: Record) -> set[str]:
    return {finding.partition(":")[0] for finding in judge(record)}


@pytest.mark.parametrize(("query", "healthy", "broken", "plan", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_broken_statement_is_noticed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, query: str, healthy: str, broken: str, plan: Plan, rule: str
) -> None:
    assert judge(stage.play(plan)) == []
    assert healthy in QUERIES[query]
    monkeypatch.setitem(QUERIES, query, QUERIES[query].replace(healthy, broken))
    assert rule in rules_broken(stage.play(plan))


def test_a_claim_that_decides_before_it_locks_is_noticed_by_running_at_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right whenever claims follow one another: only a rival between its look and its lock shows that it is wrong."""
    alive = "EXISTS (SELECT FROM scheduler.workers w WHERE w.id = %(worker)s AND w.expires_at > now())"
    mine = f"id = ANY(%(ids)s::uuid[])\n  AND ({ONE_WINNER}\n       AND {alive})"
    assert mine in QUERIES["claim"]
    decided = QUERIES["claim"].replace(mine, f"id IN (SELECT id FROM scheduler.jobs WHERE {mine})")
    monkeypatch.setitem(QUERIES, "claim", decided)
    everything = replace(CLAIM, jobs=tuple(range(JOBS)))
    assert judge(stage.play([(everything, everything)])) == []
    assert any("legal" in rules_broken(stage.play([(everything,)] * ACTORS)) for _ in range(200))


def test_an_attempt_too_many_is_noticed() -> None:
    """The schema would not let it in, so it is made up."""
    assert rules_broken(Record(jobs={b"job": (Status.PENDING, 3, 2)})) == {"attempts"}
