"""When a failed attempt runs again: exponential back-off as a pure function of the attempt and a random number.

Whether it does is decided by `after_failure` in `lifecycle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

LONGEST_SECONDS = 366 * 86_400


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Delays of base, base·factor, base·factor² … seconds, at most `cap_seconds`.

    `jitter` j stretches a delay by a share drawn from [0, j): it never shortens one, so no retry is early.
    """

    base_seconds: float = 2.0
    factor: float = 2.0
    jitter: float = 0.0
    cap_seconds: float = 86_400.0

    def delay(self, attempt: int, chance: float = 0.0) -> float:
        """Seconds to wait after failed attempt number `attempt` (from 1); `chance` lies in [0, 1)."""
        try:
            delay = self.base_seconds * self.factor ** (attempt - 1)
        except OverflowError:
            delay = self.cap_seconds
        return float(min(delay, self.cap_seconds) * (1 + self.jitter * chance))

    def delay_of(self, backoff: Backoff | None, attempt: int, chance: float = 0.0) -> float:
        """As `delay`, by what a type says of its own. Raises what its function raises, and ValueError for no delay."""
        if callable(backoff):
            seconds = float(backoff(attempt))
        else:
            own = self if backoff is None else backoff
            own = replace(self, base_seconds=own) if isinstance(own, int | float) else own
            seconds = own.delay(attempt, chance)
        if not 0 <= seconds <= LONGEST_SECONDS:
            raise ValueError(f"a delay must lie between 0 s and a year, not {seconds}")
        return seconds


Backoff = float | RetryPolicy | Callable[[int], float]  # base seconds, a policy, seconds by the failed attempt's number
