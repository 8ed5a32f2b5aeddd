"""Confidence intervals for what is measured. All are 95% intervals, and the same on every run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From samples, shape (draws, n), to one figure each, shape (draws,)."""
_DRAWS = 2_000
_AT_ONCE = 4_000_000  # numbers drawn in one go; bounds the memory


def wilson(right: int, total: int) -> tuple[float, float]:
    """The interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    z, share = 1.959964, right / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Statistic."""
    return np.asarray(samples.mean(axis=1))


def percentile(q: float) -> Statistic:
    """The Statistic of a percentile, 0 to 100."""
    return lambda samples: np.asarray(np.percentile(samples, q, axis=1))


def bootstrap(values: Sequence[float], statistic: Statistic = mean) -> tuple[float, float, float]:
    """A figure and its interval, by percentile bootstrap over independent values. Raises ValueError for none."""
    if not len(values):
        raise ValueError("no values, so no interval")
    data = np.asarray(values, float)
    rng = np.random.default_rng(0)
    step = max(1, min(_DRAWS, _AT_ONCE // len(data)))
    draws = [
        statistic(data[rng.integers(0, len(data), (min(step, _DRAWS - done), len(data)))])
        for done in range(0, _DRAWS, step)
    ]
    low, high = np.percentile(np.concatenate(draws), [2.5, 97.5])
    return float(statistic(data[None, :])[0]), float(low), float(high)


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """How much higher `after` is than `before` on the same items, and its interval by a paired bootstrap."""
    return bootstrap(list(np.asarray(after, float) - np.asarray(before, float)))
