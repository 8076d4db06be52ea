"""One idempotency key, one job: requests sent at once to two API processes on one database, and what they answered."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scheduler import submit
from scheduler.embedded import Stores
from scheduler.errors import KeyReused, RequestRefused
from tests.cluster import Cluster

pytestmark = [pytest.mark.properties, pytest.mark.e2e]

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
KEYS, BODIES, APIS = "abc", 2, 2


@dataclass(frozen=True, slots=True)
class Item:
    """One job of a request; without a key it is a job of its own, whatever becomes of others."""

    key: str | None
    body: int


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `in_header`: where the key of a single job travels; a batch knows only the field."""

    items: tuple[Item, ...]
    is_batch: bool
    in_header: bool
    api: int

    @property
    def keyed(self) -> list[tuple[int, Item]]:
        return [(n, item) for n, item in enumerate(self.items) if item.key]


@dataclass(frozen=True, slots=True)
class Answered:
    """`ids` in the order of the items; none for a refusal."""

    ask: Ask
    status: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    key: str | None
    body: int
    ask: int | None
    """Which request an item without a key came from."""


keyed = st.builds(Item, key=st.sampled_from(KEYS), body=st.integers(0, BODIES - 1))
singles = st.builds(
    Ask, items=st.tuples(keyed), is_batch=st.just(False), in_header=st.booleans(), api=st.integers(0, APIS - 1)
)
items = st.lists(keyed | st.just(Item(None, 0)), min_size=1, max_size=4, unique_by=lambda item: item.key or id(item))
batches = st.builds(
    Ask, items=items.map(tuple), is_batch=st.just(True), in_header=st.just(False), api=st.integers(0, APIS - 1)
)
asks = st.lists(singles | singles | batches, min_size=2, max_size=10)


class Town:
    """Two API processes on one database, and clients that all speak at once."""

    def __init__(self, runner: asyncio.Runner, cluster: Cluster) -> None:
        self._runner, self.cluster = runner, cluster
        self._examples = itertools.count()
        urls = [runner.run(cluster.api()) for _ in range(APIS)]
        self._https = [httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) for url in urls]

    def ask(self, asks: Sequence[Ask]) -> tuple[list[Answered], list[Row]]:
        """Every request at once, with keys that no other example has; what was answered, and what is there."""
        example = f"e{next(self._examples)}-"
        answers = self._runner.run(self._at_once([self._send(ask, n, example) for n, ask in enumerate(asks)]))
        found = self.cluster.rows(
            "SELECT id::text, idempotency_key, (payload->>'body')::int, (payload->>'ask')::int FROM scheduler.jobs"
            " WHERE payload->>'example' = %s",
            example,
        )
        return answers, [Row(id, key and key.removeprefix(example), body, ask) for id, key, body, ask in found]

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(call)

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.cluster.database_url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(statement.encode())

    async def _at_once(self, calls: list[Any]) -> list[Answered]:
        return list(await asyncio.gather(*calls))

    async def _send(self, ask: Ask, n: int, example: str) -> Answered:
        jobs = [self._job(item, n, example) for item in ask.items]
        headers = {}
        if ask.in_header:
            headers["Idempotency-Key"] = jobs[0].pop("idempotency_key")
        path, body = ("/jobs/batch", {"jobs": jobs}) if ask.is_batch else ("/jobs", jobs[0])
        answer = await self._https[ask.api].post(path, json=body, headers=headers)
        content = answer.json()
        ids = content.get("ids", [content["id"]] if "id" in content else [])
        return Answered(ask, answer.status_code, tuple(ids) if answer.is_success else ())

    def _job(self, item: Item, n: int, example: str) -> dict[str, Any]:
        payload: dict[str, Any] = {"example": example, "body": item.body}
        if item.key is None:
            return {"type": "NOOP", "payload": {**payload, "ask": n}}
        return {"type": "NOOP", "payload": payload, "idempotency_key": example + item.key}

    def close(self) -> None:
        for http in self._https:
            self._runner.run(http.aclose())


def judge(answers: Sequence[Answered], rows: Sequence[Row]) -> list[str]:
    """What went wrong; each finding begins with the rule's name."""
    found = [f"status: {answer}" for answer in answers if answer.status not in _expected(answer.ask)]
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.key:
            by_key[row.key].append(row)
    found += [f"one row: {key} has {same}" for key, same in by_key.items() if len(same) != 1]
    held = {key: same[0] for key, same in by_key.items()}
    for answer in answers:
        found += _accepted(answer, held) if answer.ids else _refused(answer, held)
    for key, row in held.items():
        found += _created(key, row, answers)
    return found + _all_or_nothing(answers, rows)


def _expected(ask: Ask) -> set[int]:
    return {202, 409} if ask.is_batch else {200, 202, 409}


def _accepted(answer: Answered, held: dict[str, Row]) -> list[str]:
    """A success names, for each key, the job that the key has; and it has the same body."""
    found = []
    for n, item in answer.ask.keyed:
        row = held.get(item.key or "")
        if row is None or (answer.ids[n], item.body) != (row.id, row.body):
            found.append(f"named: {answer}, and there is {row}")
    return found


def _refused(answer: Answered, held: dict[str, Row]) -> list[str]:
    """A refusal has its reason: some key of it belongs to another body."""
    reasons = [item for _, item in answer.ask.keyed if (row := held.get(item.key or "")) and row.body != item.body]
    return [] if reasons else [f"refused: {answer} without a reason among {held}"]


def _created(key: str, row: Row, answers: Sequence[Answered]) -> list[str]:
    """One request made the job: a single one that was told so, or else a batch that was accepted."""
    mine = [answer for answer in answers if answer.ids and any(item.key == key for _, item in answer.ask.keyed)]
    told = sum(answer.status == 202 for answer in mine if not answer.ask.is_batch)
    batches = sum(answer.ask.is_batch for answer in mine)
    return [] if told == 1 or (told == 0 and batches) else [f"created: {row}, told to {told} and {batches} batches"]


def _all_or_nothing(answers: Sequence[Answered], rows: Sequence[Row]) -> list[str]:
    """Items without a key show what each batch left behind."""
    found = []
    for n, answer in enumerate(answers):
        wanted = sorted(answer.ids[at] for at, item in enumerate(answer.ask.items) if answer.ids and not item.key)
        there = sorted(row.id for row in rows if row.ask == n)
        if wanted != there:
            found.append(f"whole: {answer} left {there}")
    return found


@pytest.fixture(scope="module")
def town(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with psycopg.connect(stores.postgres.url, autocommit=True, connect_timeout=5) as connection:
        connection.execute("CREATE DATABASE idempotency")
        url = stores.postgres.url.rsplit("/", 1)[0] + "/idempotency"
        cluster = Cluster(url, stores.redis.url, tmp_path_factory.mktemp("idempotency"))
        try:
            with asyncio.Runner() as runner:
                own = Town(runner, cluster)
                yield own
                own.close()
        finally:
            cluster.stop()
            connection.execute("DROP DATABASE idempotency WITH (FORCE)")


def test_one_key_is_one_job_whoever_is_asked_at_once(town: Town) -> None:
    met: Counter[tuple[bool, int]] = Counter()

    # Which request comes first is not in the plan, so nothing is gained by shrinking: the answers are the evidence.
    @settings(max_examples=2_000 if LONG else 130, phases=[Phase.generate])
    @given(asks=asks)
    def play(asks: list[Ask]) -> None:
        answers, rows = town.ask(asks)
        findings = judge(answers, rows)
        assert not findings, "\n".join([*findings, *map(str, answers), *map(str, rows)])
        met.update((answer.ask.is_batch, answer.status) for answer in answers)

    play()
    assert set(met) == {(False, 200), (False, 202), (False, 409), (True, 202), (True, 409)}


# -- two ways in, one key


def _key_both_ways(town: Town, key: str, first: str, bodies: tuple[int, int]) -> list[str]:
    """The ids that the same key led to: one way, then the other."""

    async def in_a_transaction(body: int) -> str:
        async with await psycopg.AsyncConnection.connect(town.cluster.database_url, connect_timeout=5) as conn:
            return await submit(conn, "NOOP", {"body": body}, idempotency_key=key)

    async def over_http(body: int) -> str:
        async with town.cluster.client() as client:
            answer = await client.submit("NOOP", {"body": body}, idempotency_key=key)
            return str(answer["id"])

    async def both() -> list[str]:
        ways = [in_a_transaction, over_http] if first == "transaction" else [over_http, in_a_transaction]
        return [await way(body) for way, body in zip(ways, bodies, strict=True)]

    ids: list[str] = town.run(both())
    return ids


@pytest.mark.parametrize("first", ["transaction", "http"])
def test_a_key_used_in_a_transaction_and_over_http_is_one_job(town: Town, first: str) -> None:
    assert len(set(_key_both_ways(town, f"same-{first}", first, (1, 1)))) == 1


@pytest.mark.parametrize("first", ["transaction", "http"])
def test_a_key_used_the_other_way_with_another_body_is_refused(town: Town, first: str) -> None:
    with pytest.raises((KeyReused, RequestRefused)):
        _key_both_ways(town, f"other-{first}", first, (1, 2))


# -- controls: the property notices what it is there for

SINGLE, OTHER = Ask((Item("a", 0),), False, False, 0), Ask((Item("a", 1),), False, False, 0)
BATCH = Ask((Item("a", 0), Item(None, 0)), True, False, 0)
ROW = Row("1", "a", 0, None)
FORGED: dict[str, tuple[list[Answered], list[Row], str]] = {
    "an API that fails": ([Answered(SINGLE, 500, ())], [], "status"),
    "two rows of one key": ([Answered(SINGLE, 202, ("1",))], [ROW, Row("2", "a", 0, None)], "one row"),
    "a job that is not there": ([Answered(SINGLE, 202, ("1",))], [], "named"),
    "another job's id": ([Answered(SINGLE, 202, ("1",)), Answered(SINGLE, 200, ("2",))], [ROW], "named"),
    "another body accepted": ([Answered(SINGLE, 202, ("1",)), Answered(OTHER, 200, ("1",))], [ROW], "named"),
    "the same body refused": ([Answered(SINGLE, 202, ("1",)), Answered(SINGLE, 409, ())], [ROW], "refused"),
    "a job created twice": ([Answered(SINGLE, 202, ("1",))] * 2, [ROW], "created"),
    "a job created by nobody": ([Answered(SINGLE, 200, ("1",))], [ROW], "created"),
    "a refused batch that left a job": ([Answered(BATCH, 409, ())], [Row("3", None, 0, 0)], "whole"),
    "an accepted batch that lost a job": ([Answered(BATCH, 202, ("1", "3"))], [ROW], "whole"),
}


@pytest.mark.parametrize(("answers", "rows", "rule"), FORGED.values(), ids=FORGED)
def test_a_forged_history_is_noticed(answers: list[Answered], rows: list[Row], rule: str) -> None:
    assert rule in {finding.partition(":")[0] for finding in judge(answers, rows)}


def test_without_the_unique_index_keys_are_doubled_and_that_is_noticed(town: Town) -> None:
    [[index]] = town.cluster.rows("SELECT pg_get_indexdef('scheduler.jobs_idempotency_key'::regclass)")
    town.execute("DROP INDEX scheduler.jobs_idempotency_key")
    try:
        answers, rows = town.ask([SINGLE, replace(SINGLE, api=1)])
        assert any(finding.startswith("one row") for finding in judge(answers, rows))
    finally:
        town.execute("DELETE FROM scheduler.jobs")
        town.execute(index)
