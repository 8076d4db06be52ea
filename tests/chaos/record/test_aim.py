"""What a fault is aimed at is taken apart in one place, and refused there when it is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.errors import UsageError
from chaos.record.aim import API, LINKS, POSTGRES, REDIS, ROLES, STORES, Aim, link, worker


@pytest.mark.parametrize(
    ("aim", "role", "store"),
    [
        (API, "api", None),
        (worker(12), "worker", None),
        (Aim("worker"), "worker", None),
        (REDIS, None, "redis"),
        (POSTGRES, None, "postgres"),
        *((link(role, store), role, store) for role in ROLES for store in STORES),
    ],
)
def test_an_aim_tells_its_role_and_its_store(aim: Aim, role: str | None, store: str | None) -> None:
    assert (aim.role, aim.store) == (role, store)
    assert Aim(str(aim)) == aim


def test_there_is_a_link_from_each_role_to_each_store() -> None:
    assert LINKS == ("api-redis", "worker-redis", "api-postgres", "worker-postgres")


@pytest.mark.parametrize("text", ["", "worker-", "worker-0", "worker-01", "redis-worker", "redis-1", "api redis", "w"])
def test_what_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="worker-redis"):
        Aim(text)


@given(st.text(alphabet="apiworkeds-12gt", max_size=16))
def test_a_text_is_either_refused_or_taken_apart_whole(text: str) -> None:
    try:
        aim = Aim(text)
    except UsageError:
        return
    rest = text.removeprefix(aim.role or "").removesuffix(aim.store or "").strip("-")
    assert rest == "" or rest.isdigit()
