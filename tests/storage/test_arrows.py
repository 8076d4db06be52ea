"""The statements against the table of transitions: no arrow that is not in it, and none of it that nobody takes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from scheduler.jobs.job import HeldJob, Outcome
from scheduler.jobs.lifecycle import RULES, Rule, Status, Transition
from scheduler.storage.store import QUERIES, Store
from tests.storage.factory import alter, expire, live_worker, submitted, value

T = Transition
FENCE, ATTEMPT, CRASHES = 7, 2, 1
COLUMNS = (
    "status, attempt, crashes, fence, run_at < now() - interval '50 minutes',"
    " reconcile_at = '-infinity', finished_at IS NOT NULL"
)


@dataclass(frozen=True)
class Scene:
    """A job in some status, last held by `holder`, whose lease holds, as does that of `other`."""

    store: Store
    job: HeldJob
    holder: bytes
    other: bytes


def settle(*outcomes: Callable[[HeldJob], Outcome]) -> Callable[[Scene], Awaitable[Any]]:
    return lambda scene: scene.store.settle([make(scene.job) for make in outcomes])


async def rescue(scene: Scene) -> None:
    await expire(scene.store, scene.holder)
    await scene.store.rescue([Outcome.crash(scene.job)])


async def rescue_spent(scene: Scene) -> None:
    await expire(scene.store, scene.holder)
    await scene.store.rescue([Outcome.fail(scene.job, "the worker died")])


# What may be done to a job: the statement that does it, the transitions that it stands for, and how.
Deed = tuple[str, tuple[Transition, ...], Callable[[Scene], Awaitable[Any]]]
DEEDS: dict[str, Deed] = {
    "claimed by who held it last": ("claim", (T.CLAIM, T.RECLAIM), lambda s: s.store.claim(s.holder, [s.job.id])),
    "claimed by another worker": ("claim", (T.CLAIM,), lambda s: s.store.claim(s.other, [s.job.id])),
    "completed": ("complete", (T.COMPLETE,), lambda s: s.store.complete([Outcome.complete(s.job, None)])),
    "completed with a result": ("settle", (T.COMPLETE,), settle(lambda job: Outcome.complete(job, "1"))),
    "retried": ("settle", (T.RETRY,), settle(lambda job: Outcome.retry(job, "why", 9.0))),
    "failed": ("settle", (T.FAIL,), settle(lambda job: Outcome.fail(job, "why"))),
    "snoozed": ("settle", (T.SNOOZE,), settle(lambda job: Outcome.snooze(job, 9.0))),
    "released": ("settle", (T.RELEASE,), settle(Outcome.release)),
    "released for later": ("settle", (T.RELEASE,), settle(lambda job: Outcome.release(job, 9.0))),
    "rescued": ("settle", (T.RESCUE,), rescue),
    "rescued in its last attempt": ("settle", (T.FAIL,), rescue_spent),
    "cancelled": ("cancel", (T.CANCEL,), lambda s: s.store.cancel(s.job.id)),
    "redriven": ("redrive", (T.REDRIVE,), lambda s: s.store.redrive([s.job.id], 9.0)),
    "reconciled": ("overlooked", (), lambda s: s.store.overlooked(0.0, 9)),
    "pruned": ("prune", (), lambda s: s.store.prune(bytes(16), b"\xff" * 16, 7_200.0, 9)),
}


async def scene_with(store: Store, status: Status) -> Scene:
    holder, other = await live_worker(store), await live_worker(store)
    [job_id] = await submitted(store)
    await alter(
        store,
        f"jobs SET status = '{status}', attempt = {ATTEMPT}, crashes = {CRASHES}, fence = {FENCE},"
        f" worker_id = '{holder.hex()}', started_at = now(), run_at = now() - interval '1 hour',"
        f" finished_at = {'now()' if status.is_final else 'NULL'} WHERE id",
        job_id,
    )
    if status is Status.FAILED:
        await store.postgres.fetch(f"INSERT INTO scheduler.dead_letters VALUES ('{job_id.hex()}', 'NOOP', 'why')")
    return Scene(store, HeldJob(job_id, FENCE, "NOOP", ATTEMPT, 4), holder, other)


def after(source: Status, rule: Rule) -> tuple[Any, ...]:
    """The columns as the table has them after a transition from `source`."""
    counts = [
        0 if add is None else was + add
        for was, add in ((ATTEMPT, rule.attempt), (CRASHES, rule.crashes), (FENCE, rule.fence))
    ]
    return (rule.target, *counts, not rule.moves_due, rule.at_once, rule.target.is_final)


async def arrows_of(store: Store, deed: str) -> set[tuple[Status, Transition]]:
    """The arrows that a deed takes, tried on a job in each status; each does to the row what the table says."""
    _, transitions, do = DEEDS[deed]
    taken = set()
    for status in Status:
        scene = await scene_with(store, status)
        before = await value(store, COLUMNS, scene.job.id)
        await do(scene)
        now = await value(store, COLUMNS, scene.job.id)
        if now[:4] != before[:4]:
            found = {t for t in transitions if status in RULES[t].sources and now == after(status, RULES[t])}
            assert found, f"{deed}: {before} became {now}, which is no arrow of {transitions}"
            taken |= {(status, each) for each in found}
        else:
            assert not any(status in RULES[each].sources for each in transitions), f"{deed}: nothing became of {status}"
        await store.postgres.fetch("WITH j AS (DELETE FROM scheduler.jobs) DELETE FROM scheduler.workers")
    return taken


@pytest.mark.parametrize("deed", DEEDS)
async def test_a_statement_takes_the_arrows_of_the_table_and_no_other(store: Store, deed: str) -> None:
    _, transitions, _ = DEEDS[deed]
    arrows = {(status, each) for each in transitions for status in RULES[each].sources}
    assert await arrows_of(store, deed) == arrows


def test_every_transition_is_taken_by_some_statement_and_every_statement_that_writes_jobs_is_tried() -> None:
    assert {each for _, transitions, _ in DEEDS.values() for each in transitions} == set(Transition)
    writing = {name for name, text in QUERIES.items() if re.search(r"(UPDATE|DELETE FROM) scheduler\.jobs", text)}
    assert {query for query, *_ in DEEDS.values()} | {"purge", "misfits"} == writing, (
        "a purge leaves no row to look at; of a misfit, it is noted when the reconciler may look at it"
    )


@pytest.mark.parametrize(
    ("deed", "query", "healthy", "broken"),
    [
        ("retried", "settle", "j.attempt + o.attempt", "j.attempt - 1"),
        ("rescued", "settle", "WHEN o.at_once THEN '-infinity'", "WHEN false THEN '-infinity'"),
        ("released for later", "settle", "WHEN o.moves_due THEN", "WHEN o.delay > 0 THEN"),
        ("cancelled", "cancel", "finished_at IS NULL", "status = 'PENDING'"),
        ("claimed by who held it last", "claim", "status = 'PROCESSING' AND worker_id = %(worker)s OR ", ""),
        ("redriven", "redrive", "crashes = 0, ", ""),
        ("completed", "complete", "AND status = 'PROCESSING'", ""),
    ],
)
async def test_a_statement_that_leaves_the_table_is_noticed(
    store: Store, monkeypatch: pytest.MonkeyPatch, deed: str, query: str, healthy: str, broken: str
) -> None:
    assert healthy in QUERIES[query]
    monkeypatch.setitem(QUERIES, query, QUERIES[query].replace(healthy, broken))
    with pytest.raises(AssertionError, match=deed):
        await arrows_of(store, deed)


async def test_a_table_that_says_otherwise_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, T.CANCEL, replace(RULES[T.CANCEL], sources=frozenset(Status)))
    with pytest.raises(AssertionError, match="cancelled"):
        await arrows_of(store, "cancelled")
