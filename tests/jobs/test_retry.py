"""The promised schedule in numbers; its laws for all numbers are in tests/properties."""

from __future__ import annotations

import pytest

from scheduler.jobs.retry import RetryPolicy


def test_the_default_policy_waits_two_four_and_eight_seconds() -> None:
    assert [RetryPolicy().delay(n) for n in (1, 2, 3)] == [2.0, 4.0, 8.0]


@pytest.mark.parametrize("attempt", [20, 1_000, 10**9])
def test_no_attempt_number_waits_longer_than_the_cap(attempt: int) -> None:
    assert RetryPolicy(cap_seconds=60).delay(attempt) == 60.0


def test_jitter_stretches_by_the_share_drawn() -> None:
    policy = RetryPolicy(base_seconds=10, jitter=0.5)
    assert [policy.delay(1, chance) for chance in (0.0, 0.5, 0.999)] == pytest.approx([10.0, 12.5, 14.995])


def test_a_factor_of_one_waits_the_same_each_time() -> None:
    assert {RetryPolicy(3.0, 1.0).delay(n) for n in range(1, 50)} == {3.0}


def test_a_type_may_have_another_base_a_policy_or_a_function_of_its_own() -> None:
    policy = RetryPolicy(2.0, factor=3.0, cap_seconds=100)
    assert [policy.delay_of(0.5, n) for n in (1, 2, 3)] == [0.5, 1.5, 4.5]
    assert [policy.delay_of(RetryPolicy(5.0), n) for n in (1, 2, 3)] == [5.0, 10.0, 20.0]
    assert [policy.delay_of(lambda attempt: attempt**2, n) for n in (1, 2, 3)] == [1.0, 4.0, 9.0]
    assert [policy.delay_of(None, n) for n in (1, 2, 3)] == [2.0, 6.0, 18.0]
    for wrong in (-1.0, 1e9, float("nan")):
        with pytest.raises(ValueError, match="between 0 s and a year"):
            policy.delay_of(lambda _, wrong=wrong: wrong, 1)
