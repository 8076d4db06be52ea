"""Who may handle which type."""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from scheduler import Job, RetryPolicy, job, samples
from scheduler.errors import ConfigurationError
from scheduler.jobs.registry import Handler, Registry, handlers


async def first(ctx: Any, payload: Any) -> None:
    """A handler."""


def second(ctx: Any, payload: Any) -> None:
    """Another one, plain."""


def third(ctx: Any, payload: Any) -> None:
    """One too many."""


def without_ctx(payload: Any) -> None:
    """No handler."""


def with_a_third(ctx: Any, payload: Any, *, third: int) -> None:
    """No handler either."""


async def yielding(ctx: Any, payload: Any) -> AsyncIterator[int]:
    """Called, it would do nothing."""
    yield 1


def policy(attempt: int) -> float:
    """A back-off."""
    return attempt


def test_a_handler_is_found_by_its_type_and_knows_whether_it_is_async() -> None:
    registry = Registry()
    registry.add(Handler("A", first))
    registry.add(Handler("B", second))
    assert list(registry) == ["A", "B"]
    assert "A" in registry
    assert "C" not in registry
    assert registry.get("C") is None
    a, b = registry.get("A"), registry.get("B")
    assert a is not None
    assert b is not None
    assert (a.function, a.is_async, b.function, b.is_async) == (first, True, second, False)


def test_two_handlers_of_one_type_are_refused_naming_both() -> None:
    registry = Registry()
    registry.add(Handler("A", first))
    with pytest.raises(ConfigurationError, match=r"'A' has two handlers, .*first and .*second; rename one"):
        registry.add(Handler("A", second))


def test_registering_the_same_function_again_changes_nothing() -> None:
    registry = Registry()
    registry.add(Handler("A", first))
    registry.add(Handler("A", first))
    assert list(registry) == ["A"]


@pytest.mark.parametrize("builtin_first", [True, False])
def test_a_users_handler_replaces_a_builtin_whichever_came_first(builtin_first: bool) -> None:
    registry = Registry()
    for is_builtin in (True, False) if builtin_first else (False, True):
        registry.add(Handler("A", first if is_builtin else second, is_builtin=is_builtin))
    found = registry.get("A")
    assert found is not None
    assert (found.function, found.is_builtin) == (second, False)


def test_a_second_user_cannot_replace_the_replacement_of_a_builtin() -> None:
    registry = Registry()
    registry.add(Handler("A", first, is_builtin=True))
    registry.add(Handler("A", second))
    with pytest.raises(ConfigurationError, match="two handlers"):
        registry.add(Handler("A", third))


@pytest.mark.parametrize("type", ["", "x" * 201, "a\x00b", "a\nb", "\ud800"])
def test_a_name_that_could_not_be_shown_or_stored_is_refused(type: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 200 printable characters"):
        Handler(type, first)


def test_the_builtin_types_are_the_promised_ones() -> None:
    assert samples.__name__ == "scheduler.samples"
    builtin = {type for type in handlers if (found := handlers.get(type)) and found.is_builtin}
    assert builtin == {"NOOP", "SLEEP", "BLOCK", "FLAKY", "FAIL", "CRASH", "EMAIL", "WEBHOOK"}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (without_ctx, r"without_ctx, the handler of type 'A', must take \(ctx, payload\): too many positional"),
        (with_a_third, "missing a required .*'third'"),
        (yielding, "is a generator"),
        (functools.partial(without_ctx), "must take"),
    ],
)
def test_a_function_that_no_job_could_run_in_is_refused_at_once(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        job("A")(function)
    assert "A" not in handlers


@pytest.mark.parametrize("function", [functools.partial(second), print, functools.wraps(first)(lambda *_: None)])
def test_whatever_takes_both_can_be_a_handler(function: Callable[..., Any]) -> None:
    assert Handler("A", function).function is function


@pytest.mark.parametrize(
    "options",
    [
        *({"max_attempts": value} for value in (0, 1_001, 2.0, True, "3")),
        *({"timeout": value} for value in (0, -1, float("nan"), float("inf"), True, "3")),
        *({"backoff": value} for value in (-1, float("nan"), "3", {2: 3}, RetryPolicy(-1))),
    ],
)
def test_an_option_that_cannot_be_is_refused_naming_its_value(options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(ConfigurationError, match=rf"^job type 'A' with .*{name}={re.escape(repr(value))}[,:]"):
        job("A", **options)(first)
    assert "A" not in handlers


def test_what_a_type_says_of_itself_is_kept() -> None:
    handler = Handler("A", first, max_attempts=7, backoff=policy, timeout_seconds=0.5)
    assert (handler.max_attempts, handler.backoff, handler.timeout_seconds) == (7, policy, 0.5)


def test_a_decorated_function_stays_what_it_was() -> None:
    assert isinstance(samples.sleep, Job)
    assert (samples.sleep.__name__, samples.sleep.__module__) == ("sleep", "scheduler.samples")
    assert (samples.sleep.__doc__ or "").startswith("Sleep `seconds`")
    again = Job("OTHER", samples.sleep.function)
    assert (samples.sleep.type, again.type, again.function) == ("SLEEP", "OTHER", samples.sleep.function)
