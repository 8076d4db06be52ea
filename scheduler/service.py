"""The loop, written once: ticks, survives its own errors with a bounded back-off, and stops at once when told to."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod

from scheduler.errors import StoreUnavailable
from scheduler.facts.facts import SERVICE_RECOVERED, STORE_UNAVAILABLE, TICK_FAILED, tell

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0


class Service(ABC):
    """A loop with a name. `ticked_at` is the monotonic time of its last round, good or bad."""

    name = "service"

    def __init__(self) -> None:
        self.ticked_at = time.monotonic()
        self._failures = 0
        self._woken = asyncio.Event()

    @property
    def idle_seconds(self) -> float:
        """Seconds since its last round."""
        return time.monotonic() - self.ticked_at

    @abstractmethod
    async def tick(self) -> float:
        """One round. Returns the seconds to wait before the next."""

    def wake(self) -> None:
        """Have no more patience: the next round begins at once, after the one that may be under way."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _: self.wake())
        try:
            while not stop.is_set():
                self._woken.clear()
                delay = await self._guarded_tick()
                self.ticked_at = time.monotonic()
                if delay > 0:
                    await pause(self._woken, delay)
                else:
                    await asyncio.sleep(0)
        finally:
            stopping.cancel()

    async def _guarded_tick(self) -> float:
        try:
            delay = await self.tick()
        except StoreUnavailable as error:
            if not self._failures:
                tell(STORE_UNAVAILABLE, service=self.name, reason=error)
            return self._back_off()
        except Exception as error:
            tell(TICK_FAILED, service=self.name, trace=error)
            return self._back_off()
        if self._failures:
            tell(SERVICE_RECOVERED, service=self.name, failures=self._failures)
            self._failures = 0
        return delay

    def _back_off(self) -> float:
        self._failures += 1
        return float(min(_FIRST_WAIT * 2 ** min(self._failures, 10), _LONGEST_WAIT))


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait `seconds`, or less when `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
