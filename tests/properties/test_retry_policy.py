"""Laws of the retry schedule for every policy that the settings allow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.jobs.retry import RetryPolicy

pytestmark = pytest.mark.properties

policies = st.builds(
    RetryPolicy,
    base_seconds=st.floats(0.001, 86_400),
    factor=st.floats(1, 100),
    jitter=st.floats(0, 10),
    cap_seconds=st.floats(0.001, 864_000),
)
attempts = st.integers(1, 1_000)
chances = st.floats(0, 1, exclude_max=True)


@given(policies, attempts, chances)
def test_no_delay_is_shorter_than_base_times_factor_to_the_n_unless_capped(
    policy: RetryPolicy, attempt: int, chance: float
) -> None:
    promised = policy.base_seconds
    for _ in range(attempt - 1):
        promised = min(promised * policy.factor, 1e300)
    assert policy.delay(attempt, chance) >= min(promised * (1 - 1e-9), policy.cap_seconds)


@given(policies, attempts)
def test_without_chance_delays_never_fall(policy: RetryPolicy, attempt: int) -> None:
    assert policy.delay(attempt) <= policy.delay(attempt + 1)


@given(policies, attempts, chances)
def test_jitter_only_lengthens_and_by_less_than_its_share(policy: RetryPolicy, attempt: int, chance: float) -> None:
    bare = policy.delay(attempt)
    assert bare <= policy.delay(attempt, chance) <= bare * (1 + policy.jitter)
