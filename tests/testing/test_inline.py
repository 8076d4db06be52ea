"""Handlers inline: each way an attempt can end, as a user's test sees it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from scheduler import Discard, JobContext, SchedulerError, Snooze
from scheduler.jobs.lifecycle import Status
from scheduler.testing import AttemptOutcome, run_inline, run_to_end

JOB_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


async def tell(ctx: JobContext, payload: dict[str, Any]) -> dict[str, Any]:
    return {"job_id": ctx.job_id, "attempt": ctx.attempt, "payload": payload, "has_deadline": ctx.deadline is not None}


async def test_a_type_and_its_handler_function_both_run_and_the_attempt_completes() -> None:
    assert await run_inline("FLAKY", {"failures": 0}) == AttemptOutcome(Status.COMPLETED, 1, {"attempts": 1})
    outcome = await run_inline(tell, {"n": (1, 2)}, attempt=2, timeout_seconds=5, job_id=JOB_ID)
    assert (outcome.status, outcome.attempt, outcome.error) == ("COMPLETED", 2, None)
    assert outcome.result == {"job_id": JOB_ID, "attempt": 2, "payload": {"n": [1, 2]}, "has_deadline": True}


async def test_a_plain_function_runs_in_a_thread_and_its_result_passes_through_json() -> None:
    def plain(ctx: JobContext, payload: dict[str, Any]) -> tuple[bool, int]:
        return threading.current_thread() is threading.main_thread(), payload["n"]

    assert (await run_inline(plain, {"n": 1})).result == [False, 1]


async def test_nothing_returned_is_no_result() -> None:
    assert await run_inline("NOOP", {}) == AttemptOutcome(Status.COMPLETED, 1)


@pytest.mark.parametrize(("attempt", "delay"), [(1, 2.0), (2, 4.0), (3, 8.0)])
async def test_a_failed_attempt_is_pending_again_after_the_policys_delay(attempt: int, delay: float) -> None:
    outcome = await run_inline("FAIL", {"message": "no luck"}, attempt=attempt)
    assert (outcome.status, outcome.attempt, outcome.delay_seconds) == ("PENDING", attempt, delay)
    assert outcome.error == "RuntimeError: no luck"


async def test_a_failed_last_attempt_is_final() -> None:
    outcome = await run_inline("FAIL", {}, attempt=3, max_attempts=3)
    assert (outcome.status, outcome.attempt, outcome.delay_seconds) == ("FAILED", 3, None)


async def test_discard_is_final_whatever_attempts_are_left() -> None:
    async def hopeless(ctx: JobContext, payload: dict[str, Any]) -> None:
        raise Discard("no such order")

    assert await run_inline(hopeless, {}) == AttemptOutcome(Status.FAILED, 1, error="Discard: no such order")


async def test_snooze_is_pending_and_gives_the_attempt_back() -> None:
    async def later(ctx: JobContext, payload: dict[str, Any]) -> None:
        raise Snooze(30)

    assert await run_inline(later, {}, attempt=2) == AttemptOutcome(Status.PENDING, 1, delay_seconds=30)


async def test_an_attempt_that_takes_too_long_is_timed_out_and_retried() -> None:
    async def endless(ctx: JobContext, payload: dict[str, Any]) -> None:
        await asyncio.Event().wait()

    outcome = await run_inline(endless, {}, timeout_seconds=0.05)
    assert (outcome.status, outcome.delay_seconds) == ("PENDING", 2.0)
    assert "timed out after 0.05 s" in str(outcome.error)


@pytest.mark.parametrize("payload", [{"at": object()}, {"n": float("nan")}, {"text": "\x00"}, ["no", "object"]])
async def test_a_payload_that_the_api_would_not_take_is_refused_before_the_handler_runs(payload: Any) -> None:
    def untouched(ctx: JobContext, payload: dict[str, Any]) -> None:
        raise AssertionError("the handler ran")

    with pytest.raises(SchedulerError, match=r"^payload[.\w]*: "):
        await run_inline(untouched, payload)


async def test_a_result_that_is_not_json_fails_the_attempt_and_says_so() -> None:
    async def wrong(ctx: JobContext, payload: dict[str, Any]) -> object:
        return object()

    outcome = await run_inline(wrong, {})
    assert (outcome.status, outcome.result) == ("PENDING", None)
    assert "return value is not JSON" in str(outcome.error)


async def test_an_unknown_type_names_the_nearest_known_one_and_the_remedy() -> None:
    with pytest.raises(SchedulerError, match="'EMIAL'; did you mean 'EMAIL'") as caught:
        await run_inline("EMIAL", {})
    assert caught.value.__notes__ == ["A test imports the module that registers its handler."]


@pytest.mark.parametrize("options", [{"attempt": 0}, {"attempt": 5}, {"job_id": "order-17"}])
async def test_an_attempt_or_an_id_that_no_job_can_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SchedulerError, match=f"{next(iter(options))}: must "):
        await run_inline("NOOP", {}, **options)


async def test_run_to_end_repeats_until_success_on_one_job_and_lists_the_delays() -> None:
    seen: set[str] = set()

    async def third_time(ctx: JobContext, payload: dict[str, Any]) -> int:
        seen.add(ctx.job_id)
        if ctx.attempt < 3:
            raise RuntimeError(str(ctx.attempt))
        return ctx.attempt

    outcomes = await run_to_end(third_time, {})
    assert [outcome.delay_seconds for outcome in outcomes] == [2.0, 4.0, None]
    assert [outcome.status for outcome in outcomes] == ["PENDING", "PENDING", "COMPLETED"]
    assert len(seen) == 1


async def test_run_to_end_spends_no_attempt_on_a_snooze_and_ends_with_the_attempts() -> None:
    snoozed: list[int] = []

    async def busy_once(ctx: JobContext, payload: dict[str, Any]) -> None:
        if not snoozed:
            snoozed.append(ctx.attempt)
            raise Snooze(1)
        raise RuntimeError("down")

    outcomes = await run_to_end(busy_once, {}, max_attempts=2)
    assert [(outcome.status, outcome.attempt) for outcome in outcomes] == [
        ("PENDING", 0),
        ("PENDING", 1),
        ("FAILED", 2),
    ]


async def test_run_to_end_gives_up_on_a_job_that_snoozes_for_ever() -> None:
    def never(ctx: JobContext, payload: dict[str, Any]) -> Callable[[], None]:
        raise Snooze(0)

    with pytest.raises(AssertionError, match="snooze for ever"):
        await run_to_end(never, {}, max_attempts=1)
