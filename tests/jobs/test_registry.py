"""Who may handle which type."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler import samples
from scheduler.errors import ConfigurationError
from scheduler.jobs.registry import Registry, handlers


async def first(ctx: Any, payload: Any) -> None:
    """A handler."""


def second(ctx: Any, payload: Any) -> None:
    """Another one, plain."""


def test_a_handler_is_found_by_its_type_and_knows_whether_it_is_async() -> None:
    registry = Registry()
    registry.add("A", first)
    registry.add("B", second)
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
    registry.add("A", first)
    with pytest.raises(ConfigurationError, match=r"'A' has two handlers, .*first and .*second; rename one"):
        registry.add("A", second)


def test_registering_the_same_function_again_changes_nothing() -> None:
    registry = Registry()
    registry.add("A", first)
    registry.add("A", first)
    assert list(registry) == ["A"]


@pytest.mark.parametrize("builtin_first", [True, False])
def test_a_users_handler_replaces_a_builtin_whichever_came_first(builtin_first: bool) -> None:
    registry = Registry()
    for is_builtin in (True, False) if builtin_first else (False, True):
        registry.add("A", first if is_builtin else second, is_builtin=is_builtin)
    found = registry.get("A")
    assert found is not None
    assert (found.function, found.is_builtin) == (second, False)


def test_a_second_user_cannot_replace_the_replacement_of_a_builtin() -> None:
    registry = Registry()
    registry.add("A", first, is_builtin=True)
    registry.add("A", second)
    with pytest.raises(ConfigurationError, match="two handlers"):
        registry.add("A", test_a_second_user_cannot_replace_the_replacement_of_a_builtin)


@pytest.mark.parametrize("type", ["", "x" * 201, "a\x00b", "a\nb", "\ud800"])
def test_a_name_that_could_not_be_shown_or_stored_is_refused(type: str) -> None:
    with pytest.raises(ConfigurationError, match="1 to 200 printable characters"):
        Registry().add(type, first)


def test_the_builtin_types_are_the_promised_ones() -> None:
    assert samples.__name__ == "scheduler.samples"
    builtin = {type for type in handlers if (found := handlers.get(type)) and found.is_builtin}
    assert builtin == {"NOOP", "SLEEP", "FLAKY", "FAIL", "CRASH", "EMAIL", "WEBHOOK"}
