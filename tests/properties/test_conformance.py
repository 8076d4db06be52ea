"""The model against the store: whatever way is taken through the one, the other's record follows it step by step."""

from __future__ import annotations

import os
from collections import Counter

import psycopg
import pytest

from scheduler.storage.store import QUERIES, Store
from tests.properties.replay import DEEDS, Replay, walk

pytestmark = pytest.mark.properties

WALKS = 1_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 120
STEPS = 60


class Departed(AssertionError):
    """The record is not where the model says; the message is the way there."""


async def replayed(store: Store, walks: int) -> Counter[str]:
    """How often each step that touches the record was taken. Raises Departed."""
    done: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for seed in range(walks):
        replay = Replay(store, max_attempts=1 + seed % 3)
        await replay.begin()
        trace = []
        for before, label, after in walk(seed, STEPS, replay.job.max_attempts, taken):
            trace.append(label[0])
            try:
                await replay.take(before, label, after)
            except (AssertionError, psycopg.Error) as error:
                raise Departed("\n".join([f"walk {seed}", *trace, str(error)])) from error
        done += replay.done
    return done


async def test_the_record_goes_every_way_that_the_model_goes(store: Store) -> None:
    done = await replayed(store, WALKS)
    assert set(done) == set(DEEDS), "nothing is proved of a step that is never taken"


LIVE = "NOT EXISTS (SELECT FROM scheduler.workers w WHERE w.id = j.worker_id AND w.expires_at > now())"
EXPIRED = "worker_id IN (SELECT id FROM scheduler.workers WHERE expires_at <= now())"
LATER, AT_ONCE = "WHEN o.moves_due THEN now() + o.delay", "WHEN o.moves_due THEN now() + 0 * o.delay"
BROKEN = {
    "a settle ignores the fence": ("settle", "AND j.fence = o.fence AND j.status = 'PROCESSING'", ""),
    "a claim is not repeated": ("claim", "status = 'PROCESSING' AND worker_id = %(worker)s OR ", ""),
    "a claim comes early": ("claim", "AND run_at <= now()", ""),
    "a repeated claim counts twice": ("claim", "WHEN 'PENDING' THEN 1 ELSE 0", "WHEN 'PENDING' THEN 1 ELSE 1"),
    "a rescue does not ask who lives": ("settle", "w.expires_at > now()", "false"),
    "a rescued job is left to its rescuer": ("settle", "WHEN o.at_once THEN", "WHEN false THEN"),
    "a look sees only leases that ran out": ("orphans", LIVE, EXPIRED),
    "a retry is due at once": ("settle", LATER, AT_ONCE),
    "a failed job has no letter": ("settle", "WHERE status = 'FAILED'", "WHERE false"),
    "a cancellation spares what runs": ("cancel", "finished_at IS NULL", "status = 'PENDING'"),
}


@pytest.mark.parametrize(("query", "healthy", "broken"), BROKEN.values(), ids=BROKEN)
async def test_a_statement_that_departs_from_the_model_is_noticed(
    store: Store, monkeypatch: pytest.MonkeyPatch, query: str, healthy: str, broken: str
) -> None:
    assert healthy in QUERIES[query]
    monkeypatch.setitem(QUERIES, query, QUERIES[query].replace(healthy, broken))
    with pytest.raises(Departed):
        await replayed(store, WALKS)
