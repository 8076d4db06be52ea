"""What the outside asks, and what the record itself takes in and refuses."""

from __future__ import annotations

from urllib.parse import urlsplit

import psycopg
import pytest

from scheduler.api.parts import Readiness
from scheduler.jobs.job import id_bytes
from scheduler.storage.postgres import Postgres
from scheduler.storage.rows import Accepted
from scheduler.storage.store import Store
from scheduler.storage.stream import Lengths, Stream
from tests.cluster import Cluster
from tests.storage.factory import alter, dead, live_worker, new_id, new_job, running, submitted

STATE = "status, attempt, fence"


# -- looking


async def test_finished_names_the_final_jobs_and_those_that_are_gone(store: Store) -> None:
    worker = await live_worker(store)
    buried, going, gone = await dead(store), await running(store, worker), new_id()
    [waiting] = await submitted(store)
    assert sorted(await store.finished([buried, going.id, waiting, gone])) == sorted([buried, gone])


async def test_unfinished_jobs_are_counted_by_what_they_wait_for(store: Store) -> None:
    worker = await live_worker(store)
    await submitted(store, 3)
    await submitted(store, 2, delay_seconds=60.0)
    await running(store, worker)
    await dead(store)
    [oldest] = await submitted(store)
    await alter(store, "jobs SET run_at = now() - interval '90 seconds' WHERE id", oldest)
    live = await store.live_counts(100)
    assert (live.due, live.waiting, live.processing) == (4, 2, 1)
    assert 90 <= live.oldest_due_seconds < 95
    assert await store.backlog(100) == 5, "what waits for its time is none"
    assert await store.backlog(5) == 5


async def test_pages_go_from_new_to_old_and_filter(store: Store) -> None:
    ids = [(await submitted(store, type="A" if n % 2 else "B"))[0] for n in range(6)]
    await store.cancel(ids[0])
    assert [id_bytes(job.id) for job in (await store.page(None, None, None, 4)).jobs] == ids[:1:-1]
    assert [id_bytes(job.id) for job in (await store.page(None, None, ids[2], 4)).jobs] == [ids[1], ids[0]]
    assert [id_bytes(job.id) for job in (await store.page("PENDING", "B", None, 4)).jobs] == [ids[4], ids[2]]


# -- submitting


async def test_inserting_the_same_ids_again_after_a_lost_reply_adds_nothing(store: Store) -> None:
    jobs = [new_job() for _ in range(3)]
    assert [await store.insert(jobs), await store.insert([*jobs, new_job()])] == [3, 1]


async def test_a_whole_insert_writes_nothing_when_one_key_is_taken_and_says_whose_it_is(store: Store) -> None:
    taken = new_job(idempotency_key="k", fingerprint=b"f")
    assert await store.insert_whole([taken]) == 1
    batch = [new_job(), new_job(idempotency_key="k"), new_job()]
    assert await store.insert_whole(batch) == 2
    keys = ["k"]
    assert await store.accepted([job.id for job in batch], keys) == [Accepted(taken.id, "k", b"f", "PENDING")]
    assert await store.backlog(100) == 1


async def test_the_record_itself_refuses_what_no_job_can_be(store: Store) -> None:
    import psycopg

    [job] = await submitted(store)
    for change in (
        "status = 'DONE'",
        "finished_at = now()",
        "status = 'COMPLETED'",
        "attempt = 5",
        "attempt = -1",
        "max_attempts = 0",
        "timeout_seconds = 0",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await alter(store, f"jobs SET {change} WHERE id", job)


async def test_lanes_count_with_the_stream(stream: Stream) -> None:
    await stream.publish([new_id() for _ in range(3)])
    await stream.forward("T", await stream.read("a", 2))
    await stream.trim()
    assert await stream.lengths() == Lengths(3, 0, 0, 0)
    await stream.open_lanes()
    stream.types = frozenset({"T"})
    await stream.read("a", 3)
    assert (await stream.lengths()).pending == 3


async def test_where_nothing_is_due_the_oldest_due_job_has_no_age(store: Store) -> None:
    assert (await store.live_counts(100)).oldest_due_seconds == 0
    await submitted(store, delay_seconds=600)
    live = await store.live_counts(100)
    assert (live.due, live.waiting, live.oldest_due_seconds) == (0, 1, 0)


async def test_readiness_names_a_right_that_was_taken_away(store: Store, stream: Stream, cluster: Cluster) -> None:
    role = f"r_{cluster.stream}"
    with psycopg.connect(cluster.database_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'".encode())
        try:
            url = urlsplit(cluster.database_url)
            limited = url._replace(netloc=f"{role}:secret@{url.hostname}:{url.port}").geturl()
            own = Store(Postgres(limited, size=2, deadline_seconds=5, name="tests"))
            answer = await Readiness(own, stream, ()).answer()
            await own.close()
        finally:
            admin.execute(f"DROP ROLE {role}".encode())
    assert (answer["postgres"], answer["redis"], answer["loops"]) == ("ok", "ok", "ok")
    assert "permission denied" in answer["jobs"]
