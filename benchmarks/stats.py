"""Figures and how sure they are, by scipy. All intervals are of 95%, and the same on every run.

scipy is slow to import and no part of the server: it is loaded by the first interval, or by `required`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heedful.server.cli.errors import CommandError

Floats = NDArray[np.float64]
Estimate = tuple[float, float, float]
"""A figure and its interval."""
Statistic = Callable[..., Any]
"""From samples and the axis that goes, as numpy's `mean` and `median`. Several figures are the first axis."""
_DRAWS, _FLIPS = 2_000, 10_000
_AT_ONCE = 4_000_000  # numbers drawn in one go; bounds the memory


def required() -> Any:
    """`scipy.stats`. Raises CommandError where it is not installed: better before a measurement than after it."""
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise CommandError("intervals need scipy: pip install 'heedful[measure]'") from error
    return stats


def wilson(right: int, total: int) -> tuple[float, float]:
    """The interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    # Held against itself: the test, which nobody asks for, then takes no time.
    test = required().binomtest(right, total, right / total)
    low, high = test.proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def bootstrap(values: ArrayLike, statistic: Statistic = np.mean) -> Estimate:
    """A figure and its interval, by percentile bootstrap over independent values. Raises ValueError for none."""
    (estimate,) = bootstrap_all(values, lambda samples, axis: statistic(samples, axis=axis)[None])
    return estimate


def bootstrap_all(values: ArrayLike, statistic: Statistic) -> list[Estimate]:
    """The same of several figures at once."""
    data = np.asarray(values)
    if not len(data):
        raise ValueError("no values, so no interval")
    figures = statistic(data[None], axis=-1)[:, 0]
    low = high = figures
    if len(data) > 1:  # scipy refuses a single one, whose samples are all alike
        batch = max(1, min(_DRAWS, _AT_ONCE // len(data)))
        drawn = required().bootstrap(
            (data,), statistic, n_resamples=_DRAWS, batch=batch, vectorized=True, method="percentile", rng=0
        )
        low, high = drawn.confidence_interval
    return [(float(f), float(a), float(b)) for f, a, b in zip(figures, low, high, strict=True)]


def percentiles(values: ArrayLike, shares: Sequence[float]) -> list[Estimate]:
    """Percentiles, 0 to 100, with their intervals."""
    return bootstrap_all(values, lambda samples, axis: np.percentile(samples, shares, axis=axis))


def grouped_percentiles(groups: Sequence[Sequence[float]], shares: Sequence[float]) -> list[Estimate]:
    """Percentiles (nearest rank) over the values of all groups, none of them empty.

    Values of one group are alike, so whole groups are drawn for the interval, not single values.
    """
    values = np.concatenate([np.asarray(each, float) for each in groups])
    owner = np.repeat(np.arange(len(groups)), [len(each) for each in groups])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]

    def statistic(samples: NDArray[np.int64], axis: int) -> Floats:
        found = []
        # One after the other: all values of all draws are too much for the processor's cache.
        for drawn in times(samples, len(groups)):
            reached = drawn[owner].cumsum()
            found.append(np.searchsorted(reached, np.asarray(shares) / 100 * reached[-1]))
        return np.asarray(values[np.array(found).T])

    return bootstrap_all(np.arange(len(groups)), statistic)


def times(samples: NDArray[np.int64], of: int) -> NDArray[np.int64]:
    """How often each of the numbers below `of` is in each sample: shape (draws, of)."""
    apart = samples + of * np.arange(len(samples))[:, None]
    return np.bincount(apart.ravel(), minlength=len(samples) * of).reshape(-1, of)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """How much higher `after` is than `before` on the same items, and its interval by a paired bootstrap."""
    return bootstrap(np.asarray(after, float) - np.asarray(before, float))


def paired_test(differences: ArrayLike) -> float:
    """The p-value of paired differences.

    Where all that are not 0 are of one size, as those of right and wrong answers are, by the exact test of signs
    (McNemar's, exact); else by `sign_flips`.
    """
    values = np.asarray(differences, float)
    apart = values[np.abs(values) > 1e-12]
    if not len(apart):
        return 1.0
    if np.ptp(np.abs(apart)) < 1e-12:
        return float(required().binomtest(int((apart > 0).sum()), len(apart), 0.5).pvalue)
    return sign_flips(apart)


def pairs_needed(gap: float, squares: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """How many pairs a two-sided test of a mean of paired differences needs to find a `gap` with this power.

    `squares`: the mean of the squared differences where there is that gap; of right and wrong answers the share of
    the pairs that differ. Connor 1987, "Sample size for testing differences in proportions for the paired-sample
    design" (Biometrics 43, 207-211): the normal approximation, for any differences of that mean and mean square.
    Raises ValueError for a gap that is none, or squares that it can't have.
    """
    if gap <= 0 or squares < gap**2:
        raise ValueError(f"no differences have the mean {gap} and the mean square {squares}")
    by_chance, by_miss = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    return math.ceil((by_chance * math.sqrt(squares) + by_miss * math.sqrt(squares - gap**2)) ** 2 / gap**2)


def gap_found(
    pairs: int, squares: Callable[[float], float], *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest gap up to 1 that so many pairs find, by `pairs_needed`; None: not even that.

    `squares`: the mean square that goes with a gap.
    """
    low, high = 0.0, 1.0
    if pairs_needed(high, squares(high), alpha=alpha, power=power) > pairs:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        enough = pairs_needed(middle, squares(middle), alpha=alpha, power=power) <= pairs
        low, high = (low, middle) if enough else (middle, high)
    return high


def sign_flips(differences: ArrayLike) -> float:
    """The p-value of a mean of paired differences: how often flipping their signs gives one as far from 0."""
    test = required().permutation_test(
        (np.asarray(differences, float),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_FLIPS,
        rng=0,
    )
    return float(test.pvalue)
