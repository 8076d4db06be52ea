"""The statistics against published values, brute force and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebooks.analysis import stats


def test_the_quantile_is_the_order_statistic_of_the_latency_plots() -> None:
    assert stats.quantile(range(1, 11), 0.5) == 6
    assert stats.quantile(range(1, 11), 0.95) == 10
    assert stats.quantile([4, math.nan, 2], 1) == 4
    assert math.isnan(stats.quantile([], 0.5))


def test_the_median_of_ten_lies_between_the_second_and_the_ninth() -> None:
    """Published in every table of sign-test intervals: coverage 97.9 % for n = 10."""
    assert stats.quantile_interval(range(1, 11), 0.5) == stats.Interval(6, 2, 9)


@pytest.mark.parametrize(("n", "q"), [(10, 0.5), (20, 0.9), (59, 0.95), (200, 0.99)])
def test_the_order_statistics_cover_the_quantile_and_are_the_tightest_with_such_tails(n: int, q: float) -> None:
    found = stats.quantile_interval(range(1, n + 1), q)
    low = 0 if math.isinf(found.low) else int(found.low)
    high = n + 1 if math.isinf(found.high) else int(found.high)
    chances = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]
    assert sum(chances[low:high]) >= 0.95
    assert sum(chances[:low]) <= 0.025 < sum(chances[: low + 1])
    assert sum(chances[high:]) <= 0.025 < sum(chances[high - 1 :])


def test_a_tail_quantile_of_a_small_sample_has_no_upper_bound() -> None:
    assert stats.quantile_interval(range(50), 0.99).high == math.inf


def test_the_interval_of_a_large_sample_does_not_overflow() -> None:
    found = stats.quantile_interval(np.arange(100_000), 0.99)
    assert found.low < 99_000 < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * math.sqrt(100_000 * 0.99 * 0.01), rel=0.02)


def test_wilson_agrees_with_newcombe() -> None:
    """R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3."""
    for hits, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ]:
        found = stats.wilson(hits, trials)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert stats.wilson(29, 29).low == pytest.approx(0.8830, abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_its_share_and_stays_within_zero_and_one(hits: int, more: int) -> None:
    found = stats.wilson(hits, hits + more)
    assert 0 <= found.low <= found.point + 1e-12 <= found.high + 2e-12 <= 1 + 3e-12


def test_no_loss_in_twelve_faults_bounds_the_chance_of_one_at_22_percent() -> None:
    assert stats.zero_failure_bound(12) == pytest.approx(0.2209, abs=5e-5)
    assert stats.zero_failure_bound(59) == pytest.approx(0.05, abs=1e-3)
    assert stats.zero_failure_bound(299) == pytest.approx(0.01, abs=1e-4)
    assert stats.zero_failure_bound(0) == 1


def test_the_ecdf_is_the_share_at_or_below() -> None:
    values, shares = stats.ecdf([3, 1, 2, 2])
    assert values.tolist() == [1, 2, 2, 3]
    assert shares.tolist() == [0.25, 0.5, 0.75, 1.0]


def test_kaplan_meier_agrees_with_the_leukaemia_trial() -> None:
    """Remission times under 6-MP, Freireich 1963, as tabled by Kalbfleisch and Prentice."""
    seconds = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
    finished = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    found = stats.kaplan_meier(seconds, finished)
    assert found.times.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert found.surviving == pytest.approx([0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448], abs=5e-4)
    assert (found.events, found.censored) == (9, 12)
    assert found.quantile(0.5) == 23
    assert found.quantile(0.9) == math.inf


@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=12))
def test_kaplan_meier_is_the_product_over_who_was_still_there(records: list[tuple[int, bool]]) -> None:
    found = stats.kaplan_meier([at for at, _ in records], [end for _, end in records])
    surviving = 1.0
    for at, share in zip(found.times, found.surviving, strict=True):
        at_risk = sum(time >= at for time, _ in records)
        surviving *= 1 - sum(end and time == at for time, end in records) / at_risk
        assert share == pytest.approx(surviving, abs=1e-12)
    assert np.all(found.low <= found.surviving + 1e-12)
    assert np.all(found.surviving <= found.high + 1e-12)


def test_without_censoring_kaplan_meier_is_the_ecdf() -> None:
    values = [1.0, 2.0, 2.0, 5.0]
    found = stats.kaplan_meier(values, [True] * 4)
    assert (1 - found.surviving).tolist() == pytest.approx([0.25, 0.75, 1.0])


def test_the_bootstrap_agrees_with_every_possible_resample() -> None:
    values = [1.0, 2.0, 4.0, 8.0]
    means = [float(np.mean(pick)) for pick in itertools.product(values, repeat=4)]
    found = stats.bootstrap_interval(values, lambda v: float(v.mean()), np.random.default_rng(1), resamples=20_000)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.3)


def test_blocks_widen_the_interval_of_values_that_follow_each_other() -> None:
    rng = np.random.default_rng(5)
    walk = np.repeat(rng.normal(size=40), 10)
    plain = stats.bootstrap_interval(walk, lambda v: float(v.mean()), np.random.default_rng(1))
    blocks = stats.bootstrap_interval(walk, lambda v: float(v.mean()), np.random.default_rng(1), block=20)
    assert blocks.high - blocks.low > 1.5 * (plain.high - plain.low)


def test_the_bootstrap_is_the_same_for_the_same_generator() -> None:
    found = [stats.bootstrap_interval([1, 5, 9], np.median, np.random.default_rng(7)) for _ in range(2)]
    assert found[0] == found[1]
