"""Waiting on conditions: what is returned, what is awaited, what a failure says."""

from __future__ import annotations

import asyncio

import pytest

from scheduler.testing import eventually


async def test_the_first_truthy_value_is_returned_and_nothing_is_looked_at_after_it() -> None:
    values = iter([0, "", None, "found", "too far"])
    assert await eventually(lambda: next(values), every=0) == "found"
    assert next(values) == "too far"


async def test_what_can_be_awaited_is_awaited() -> None:
    values = iter([0, 7])

    async def look() -> int:
        return next(values)

    assert await eventually(look, every=0) == 7


async def test_until_says_which_value_is_waited_for_also_a_falsy_one() -> None:
    values = iter([2, 1, 0])
    assert await eventually(lambda: next(values), every=0, until=lambda left: left == 0) == 0


async def test_a_failure_says_what_was_waited_for_and_what_was_last_seen() -> None:
    values = iter(range(3, 1_000_000))
    with pytest.raises(AssertionError, match=r"no job left not seen within 0\.05 s; last seen: \d+"):
        await eventually(lambda: next(values), within=0.05, every=0.01, of="no job left", until=lambda left: left < 1)


async def test_a_look_that_hangs_is_given_up_and_one_that_raises_is_not_tried_again() -> None:
    with pytest.raises(AssertionError, match="condition not seen within"):
        await eventually(asyncio.Event().wait, within=0.05)
    tried: list[int] = []

    def look() -> None:
        tried.append(1)
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await eventually(look)
    assert tried == [1]
