"""What a handler is told and what its type says of itself: run as a worker would, with no store."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from scheduler import Discard, JobContext, RetryPolicy, SchedulerError, job
from scheduler.handlers import open_resources, resource
from scheduler.jobs.job import ClaimedJob, Outcome
from scheduler.jobs.registry import Handler
from scheduler.testing import run_inline, run_to_end
from scheduler.worker.executor import Executor

JOB = ClaimedJob(bytes(8) + b"\xff" * 8, 1, "T", 1, 4, None, b"{}")


async def failing(ctx: JobContext, payload: dict[str, Any]) -> None:
    raise RuntimeError("no luck")


def raises(attempt: int) -> float:
    raise KeyError(attempt)


async def outcome_of(function: Callable[..., Any], job: ClaimedJob = JOB, **options: Any) -> Outcome:
    executor = Executor(RetryPolicy(2.0), concurrency=1, rng=random.Random(0))
    try:
        return await executor.run(job, Handler("T", function, **options))
    finally:
        executor.bodies.close()


async def test_a_handler_knows_its_attempts_and_whether_this_is_the_last() -> None:
    async def tell(ctx: JobContext, payload: dict[str, Any]) -> list[Any]:
        return [ctx.attempt, ctx.max_attempts, ctx.is_last, ctx.resources["pool"]]

    told = [await run_inline(tell, {}, attempt=n, max_attempts=2, resources={"pool": "p"}) for n in (1, 2)]
    assert [each.result for each in told] == [[1, 2, False, "p"], [2, 2, True, "p"]]


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        (None, [2.0, 4.0]),
        (0.5, [0.5, 1.0]),
        (RetryPolicy(5.0, factor=1.0), [5.0, 5.0]),
        (lambda attempt: 10 * attempt, [10.0, 20.0]),
        (lambda _: -1, [2.0, 4.0]),
        (lambda _: "soon", [2.0, 4.0]),
        (raises, [2.0, 4.0]),
    ],
)
async def test_a_types_own_back_off_wins_and_one_that_cannot_tell_is_replaced(
    backoff: Any, delays: list[float]
) -> None:
    found = []
    for attempt in (1, 2):
        held = ClaimedJob(JOB.id, 1, "T", attempt, 4, None, b"{}")
        found.append((await outcome_of(failing, held, backoff=backoff)).delay_seconds)
    assert found == delays


async def test_a_types_defaults_hold_until_a_submission_says_otherwise() -> None:
    async def slow(ctx: JobContext, payload: dict[str, Any]) -> None:
        await asyncio.sleep(5)

    own = job("SLOW-OF-THIS-TEST", max_attempts=2, timeout=0.05, backoff=7)(slow)
    ends = await run_to_end(own, {})
    assert [(end.status, end.delay_seconds) for end in ends] == [("PENDING", 7.0), ("FAILED", None)]
    assert ends[0].error == "TimeoutError: timed out after 0.05 s (timeout_seconds)"
    later = await run_inline(own, {}, timeout_seconds=0.1, max_attempts=1)
    assert (later.status, later.error) == ("FAILED", "TimeoutError: timed out after 0.1 s (timeout_seconds)")


async def test_a_traceback_has_the_last_frames_of_the_handler_alone_and_is_bounded() -> None:
    def deep(ctx: Any, payload: Any, levels: int = 100) -> None:
        if levels == 0:
            raise RuntimeError("x" * 100_000)
        inner = [deep_a, deep_b][levels % 2]
        inner(levels - 1)

    def deep_a(levels: int) -> None:
        deep(None, None, levels)

    def deep_b(levels: int) -> None:
        deep(None, None, levels)

    trace = (await outcome_of(deep)).trace
    assert trace
    assert trace.count('File "') <= 20
    assert len(trace.encode()) <= 8_192
    assert "RuntimeError: xxx" in trace
    assert "/scheduler/worker/" not in trace


async def test_a_traceback_names_where_a_timed_out_or_discarded_attempt_was_and_its_cause() -> None:
    async def hanging(ctx: Any, payload: Any) -> None:
        await asyncio.sleep(60)  # here it hangs

    async def discarding(ctx: Any, payload: Any) -> None:
        raise Discard("hopeless") from LookupError("the cause\x00\ud800")

    timed_out = await outcome_of(hanging, timeout_seconds=0.05)
    assert timed_out.trace
    assert "# here it hangs" in timed_out.trace
    assert timed_out.trace.rstrip().endswith("TimeoutError: timed out after 0.05 s (timeout_seconds)")
    discarded = await outcome_of(discarding)
    assert discarded.trace
    assert "LookupError: the cause\\x00\\ud800" in discarded.trace
    assert discarded.trace.rstrip().endswith("Discard: hopeless")


async def test_there_is_no_traceback_where_no_frame_is_the_handlers() -> None:
    async def no_json(ctx: Any, payload: Any) -> object:
        return object()

    outcome = await outcome_of(no_json)
    assert (outcome.error or "").startswith("TypeError: the handler's return value is not JSON")
    assert outcome.trace is None


@pytest.fixture
def no_resources(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    own: dict[str, Any] = {}
    monkeypatch.setattr("scheduler.handlers._resources", own)
    monkeypatch.setattr("scheduler.handlers.RESOURCE_SECONDS", 0.2)
    return own


async def test_resources_are_opened_in_order_and_closed_in_reverse_also_after_a_failure(
    no_resources: dict[str, Any],
) -> None:
    told: list[str] = []

    @resource
    async def first() -> Any:
        told.append("first opened")
        yield 1
        told.append("first closed")

    @resource
    async def second() -> Any:
        yield 2
        raise OSError("cannot close")

    async def work() -> None:
        async with open_resources() as found:
            told.append(f"found {found}")

    with pytest.raises(SchedulerError, match="resource 'second' could not be closed: OSError: cannot close"):
        await work()
    assert told == ["first opened", "found {'first': 1, 'second': 2}", "first closed"]

    @resource
    async def third() -> Any:
        await asyncio.sleep(60)
        yield 3

    del no_resources["second"]
    with pytest.raises(SchedulerError, match="resource 'third' could not be opened: TimeoutError: not within"):
        await work()
    assert told[3:] == ["first opened", "first closed"]


def test_what_yields_nothing_is_no_resource(no_resources: dict[str, Any]) -> None:
    with pytest.raises(SchedulerError, match="resource 'failing' must be an `async def` that yields once"):
        resource(failing)  # type: ignore[arg-type]
    assert no_resources == {}
