"""What a lost reply of PostgreSQL leads to where keys and the audit are written."""

from __future__ import annotations

from typing import Any

from scheduler.storage.store import Store
from tests.storage.replies.lost_replies import Table, World

ON_ACCESS = Table()
ASKED = {"caller": "c", "address": "a", "action": "cancel", "detail": "d", "status": None, "calls": 1}


async def audited(w: World) -> list[tuple[Any, ...]]:
    return await w.record.postgres.fetch("SELECT action FROM scheduler.audit ORDER BY id")


@ON_ACCESS.of(Store.add_key)
async def a_key_whose_addition_was_not_heard_of_is_there_once_and_says_so(w: World) -> None:
    await w.lose(w.store.add_key("k", "read", b"h" * 32))
    assert not await w.store.add_key("k", "read", b"h" * 32)
    assert [key[:3] for key in await w.store.keys()] == [("k", "read", b"h" * 32)]
    assert await audited(w) == [("keys add",)]


@ON_ACCESS.of(Store.revoke_key)
async def a_key_whose_end_was_not_heard_of_is_gone(w: World) -> None:
    assert await w.record.add_key("k", "read", b"h" * 32)
    await w.lose(w.store.revoke_key("k"))
    assert not await w.store.revoke_key("k")
    assert await w.store.keys() == []
    assert await audited(w) == [("keys add",), ("keys revoke",)]


@ON_ACCESS.of(Store.note)
async def what_is_noted_again_stands_there_twice_and_nothing_is_missing(w: World) -> None:
    await w.lose(w.store.note([{"at": 0.0, **ASKED}], 1.0))
    await w.store.note([{"at": 0.0, **ASKED}], 1.0)
    assert await audited(w) == [("cancel",), ("cancel",)]


@ON_ACCESS.of(Store.prune_audit)
async def what_was_pruned_unheard_of_is_gone_and_newer_rows_stay(w: World) -> None:
    await w.record.note([{"at": -9_999.0, **ASKED}, {"at": 0.0, **ASKED, "action": "purge"}], 1.0)
    await w.lose(w.store.prune_audit(60.0, 9))
    assert await w.store.prune_audit(60.0, 9) == 0
    assert await audited(w) == [("purge",)]
