"""The watch: what counts as standing still, and what ends with the heartbeat."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler.worker import heartbeat as beating
from scheduler.worker import watch
from scheduler.worker.watch import Watch
from tests.cluster import eventually
from tests.storage.factory import new_id


class EndedError(Exception):
    """In the place of the process's end."""


def end(reason: str) -> None:
    raise EndedError(reason)


async def nine_beats(*, moves: bool, starved: bool) -> None:
    """Of a worker whose only loop goes round, or does not."""
    loop: Any = SimpleNamespace(name="loop", ticked_at=0.0)
    slots: Any = SimpleNamespace(starved=starved)
    own = Watch([loop], slots, beat_seconds=1, warn_seconds=99, stall_seconds=3)
    for _ in range(9):
        own.check()
        await asyncio.sleep(0)
        loop.ticked_at += moves


@pytest.mark.parametrize(("moves", "starved", "still"), [(False, False, "loop"), (True, True, "slots")])
async def test_what_stands_still_for_too_many_beats_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, moves: bool, starved: bool, still: str
) -> None:
    monkeypatch.setattr(watch, "end_process", end)
    with pytest.raises(EndedError, match=f"{still} has stood still for 3 s"):
        await nine_beats(moves=moves, starved=starved)


async def test_a_process_without_a_descriptor_left_cannot_settle_what_it_holds_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "end_process", end)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))
    try:
        with pytest.raises(EndedError, match="the opening of files has stood still for 3 s"):
            await nine_beats(moves=True, starved=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_what_moves_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "end_process", end)
    await nine_beats(moves=True, starved=False)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # its end is the point
async def test_a_worker_whose_heartbeat_ends_ends_too(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    reasons: list[str] = []

    async def give_up() -> None:
        raise SystemExit

    monkeypatch.setattr(beating, "end_process", reasons.append)
    own = beating.Heartbeat(
        database_url, new_id(), name="w", lease_seconds=0.5, types=[], on_cancelled=print, on_lapse=print
    )
    monkeypatch.setattr(own, "_beat", give_up)
    own.start()
    await eventually(lambda: reasons == ["the heartbeat has ended"], within=10)
    await own.stop()


@pytest.mark.parametrize("closed", ["import os, sys; os.close(2); sys.stderr = None; ", ""], ids=["closed", "unread"])
def test_a_useless_worker_ends_though_it_cannot_say_why(closed: str) -> None:
    ending = "import sys; from scheduler.worker.watch import end_process; sys.stdin.read(); end_process('of no use')"
    process = subprocess.Popen([sys.executable, "-c", closed + ending], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    assert process.stderr
    process.stderr.close()
    process.stdin.close()
    assert process.wait(30) == os.EX_SOFTWARE
