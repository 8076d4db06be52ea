"""Is this worker still of use? Asked by the heartbeat's thread before each renewal: a useless worker gets none.

A worker counts as useful while each of its loops goes round, no job waits beside a free slot, and it can open files.
Rounds are counted by beats, not by clocks: a process that was stopped for an hour has missed none.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from scheduler.facts.facts import LOOP_BLOCKED, WORKER_USELESS, tell
from scheduler.service import Service
from scheduler.worker.slots import Slots


class Watch:
    """`beat_seconds` apart, `check` looks at the loops. Made in the thread that they run in."""

    def __init__(
        self, loops: Sequence[Service], slots: Slots, *, beat_seconds: float, warn_seconds: float, stall_seconds: float
    ) -> None:
        self._loops, self._slots, self._beat_seconds = loops, slots, beat_seconds
        self._warn_seconds, self._stall_seconds = warn_seconds, stall_seconds
        self._thread, self._loop, self._turns = threading.get_ident(), asyncio.get_running_loop(), 0
        self._seen: dict[str, object] = {}
        self._still: dict[str, int] = {}

    def check(self) -> None:
        """Look once a beat. Says where a loop is blocked; ends the process when something stands still for too long."""
        marks: dict[str, object] = {loop.name: loop.ticked_at for loop in self._loops}
        marks["the opening of files"] = object() if _can_open() else "no descriptor is left"
        marks |= {"event loop": self._turns, "slots": "starved" if self._slots.starved else object()}
        self._loop.call_soon_threadsafe(self._turn)
        for name, mark in marks.items():
            self._still[name] = self._still.get(name, 0) + 1 if self._seen.get(name) == mark else 0
        self._seen = marks
        name, beats = max(self._still.items(), key=lambda item: item[1])
        seconds = beats * self._beat_seconds
        if seconds >= self._stall_seconds:
            end_process(f"{name} has stood still for {seconds:.0f} s")
        blocked = self._still["event loop"] * self._beat_seconds
        if blocked - self._beat_seconds < self._warn_seconds <= blocked:
            tell(LOOP_BLOCKED, seconds=round(blocked), at=self._place())

    def _turn(self) -> None:
        self._turns += 1

    def _place(self) -> str:
        """What the loop's thread is doing: its innermost frames."""
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001  (the way that the manual documents)
        frames = traceback.extract_stack(frame)[-3:] if frame else []
        return " < ".join(f"{each.filename}:{each.lineno} {each.name}" for each in reversed(frames))


def _can_open() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True


def end_process(reason: str, code: int = os.EX_SOFTWARE) -> NoReturn:
    """Say why, with every thread's stack, and end at once: the lease runs out, and others take over."""
    try:
        tell(WORKER_USELESS, reason=reason)
        faulthandler.dump_traceback(all_threads=True)
    finally:
        leave_at_once(code)


def leave_at_once(code: int) -> NoReturn:
    """End this process whatever still runs in it, also where standard error is closed or nobody reads it."""
    try:
        sys.stderr.flush()
    finally:
        os._exit(code)
