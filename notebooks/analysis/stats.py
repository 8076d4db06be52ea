"""Numbers with their uncertainty: quantiles, rates, bounds and censored latencies, each with its source.

Pure functions over arrays; randomness comes in as an argument. Nothing here knows what a job is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate with its confidence bounds; a bound that the sample cannot give is infinite."""

    point: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Survival:
    """A Kaplan-Meier estimate: the share unfinished after each time, with pointwise bounds, until `last`."""

    times: Floats
    surviving: Floats
    low: Floats
    high: Floats
    events: int
    censored: int
    last: float

    def quantile(self, q: float) -> float:
        """The time by which a share `q` has finished; infinite when the record ended before that."""
        reached = np.flatnonzero(1 - self.surviving >= q - 1e-12)
        return float(self.times[reached[0]]) if reached.size else math.inf


def quantile(values: ArrayLike, q: float) -> float:
    """The order statistic at index min(n-1, floor(n q)), as Jepsen's latency plots take it; NaN for no
    values.
    """
    ranked = _sorted(values)
    return float(ranked[min(ranked.size - 1, math.floor(ranked.size * q))]) if ranked.size else math.nan


def quantile_interval(values: ArrayLike, q: float, confidence: float = 0.95) -> Interval:
    """A quantile between two order statistics, free of any assumed distribution.

    The number of values at or below the true quantile is binomial(n, q), so [x(l), x(u)] covers it with at
    least `confidence` when l and u-1 are the binomial's tail quantiles. Source: W. J. Conover, Practical
    Nonparametric Statistics, 3rd ed., 1999, section 3.2; Hahn and Meeker, Statistical Intervals, 1991,
    section 5.2.
    """
    ranked = _sorted(values)
    n = ranked.size
    if n == 0:
        return Interval(math.nan, -math.inf, math.inf)
    cumulative = np.cumsum(_binomial(n, q))
    tail = (1 - confidence) / 2
    lower = int(np.searchsorted(cumulative, tail))
    upper = int(np.searchsorted(cumulative, 1 - tail)) + 1
    low = float(ranked[lower - 1]) if lower >= 1 else -math.inf
    high = float(ranked[upper - 1]) if upper <= n else math.inf
    return Interval(quantile(ranked, q), low, high)


def wilson(hits: int, trials: int, confidence: float = 0.95) -> Interval:
    """A share and its score interval, sound for small counts and for shares near 0 and 1.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.
    """
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / trials
    scale = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def zero_failure_bound(trials: int, confidence: float = 0.95) -> float:
    """The largest chance of failure that `trials` independent trials without one leave plausible.

    1 - (1 - confidence)^(1/n), about 3/n at 95 %. Losses cluster in faults, so n counts faults, not jobs.
    Source: Hanley and Lippman-Hand, If nothing goes wrong, is everything all right?, JAMA 249, 1983 (the
    rule of three).
    """
    return 1.0 if trials == 0 else 1 - (1 - confidence) ** (1 / trials)


def ecdf(values: ArrayLike) -> tuple[Floats, Floats]:
    """The empirical distribution: each value in order, and the share of values at or below it."""
    ranked = _sorted(values)
    return ranked, np.arange(1, ranked.size + 1) / max(1, ranked.size)


def kaplan_meier(seconds: ArrayLike, finished: ArrayLike, confidence: float = 0.95) -> Survival:
    """The share unfinished over time when some records end before the job does (right-censored).

    Bounds are Greenwood's on the log(-log) scale, which stay within 0 and 1. Source: E. L. Kaplan and P.
    Meier, Nonparametric estimation from incomplete observations, JASA 53, 1958; Kalbfleisch and Prentice,
    The Statistical Analysis of Failure Time Data, 2nd ed., 2002, section 1.4. At equal times, ends come
    before cuts.
    """
    time, end = np.asarray(seconds, dtype=np.float64), np.asarray(finished, dtype=bool)
    times = np.unique(time[end])
    ended = np.array([np.count_nonzero(end & (time == at)) for at in times], dtype=np.float64)
    at_risk = time.size - np.searchsorted(np.sort(time), times, side="left")
    surviving: Floats = np.cumprod(1 - ended / np.maximum(at_risk, 1), dtype=np.float64)
    low, high = _log_log_bounds(surviving, ended, at_risk, confidence)
    return Survival(times, surviving, low, high, int(end.sum()), int((~end).sum()), float(time.max(initial=0.0)))


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[Floats], float],
    rng: np.random.Generator,
    *,
    resamples: int = 2000,
    block: int = 1,
    confidence: float = 0.95,
) -> Interval:
    """A percentile bootstrap of any statistic; `block` > 1 keeps neighbours together (moving blocks).

    Source: B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979; blocks:
    H. R. Künsch, The jackknife and the bootstrap for general stationary observations, Annals of Statistics
    17, 1989.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        return Interval(math.nan, -math.inf, math.inf)
    block = min(block, sample.size)
    starts = rng.integers(0, sample.size - block + 1, (resamples, math.ceil(sample.size / block)))
    picks = (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)[:, : sample.size]
    drawn = [statistic(sample[pick]) for pick in picks]
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(statistic(sample), float(low), float(high))


def _sorted(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return np.sort(array[~np.isnan(array)])


def _binomial(n: int, p: float) -> Floats:
    """The probabilities of 0..n hits, by logarithms so that they hold for large n."""
    if p in (0.0, 1.0):
        certain: Floats = np.eye(1, n + 1, n if p else 0, dtype=np.float64)[0]
        return certain
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    hits = np.arange(n + 1)
    return np.asarray(np.exp(logs[n] - logs - logs[::-1] + hits * math.log(p) + (n - hits) * math.log1p(-p)))


def _log_log_bounds(
    surviving: Floats, ended: Floats, at_risk: NDArray[np.int64], confidence: float
) -> tuple[Floats, Floats]:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.sqrt(np.cumsum(ended / (at_risk * (at_risk - ended)))) / np.abs(np.log(surviving))
        low, high = surviving ** np.exp(z * spread), surviving ** np.exp(-z * spread)
    inside = (surviving > 0) & (surviving < 1)
    return np.where(inside, low, surviving).astype(float), np.where(inside, high, surviving).astype(float)
