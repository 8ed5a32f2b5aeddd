"""Intervals against figures known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from heedful.benchmarks.intervals import bootstrap, paired_difference, percentile, wilson


def test_wilson() -> None:
    # Wilson's interval for 8 of 10, as textbooks have it.
    assert list(wilson(8, 10)) == pytest.approx([0.490, 0.943], abs=1e-3)
    assert wilson(0, 50)[0] == 0 and wilson(50, 50)[1] == pytest.approx(1)


def test_a_bootstrapped_mean_has_the_interval_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    figure, low, high = bootstrap(list(values))
    error = 1.96 * values.std() / 20
    assert figure == pytest.approx(values.mean())
    assert [low, high] == pytest.approx([figure - error, figure + error], abs=0.03)


def test_a_percentile_lies_in_its_interval() -> None:
    figure, low, high = bootstrap([float(i) for i in range(1000)], percentile(90))
    assert figure == pytest.approx(899.1)
    assert 870 < low < figure < high < 930
    with pytest.raises(ValueError):
        bootstrap([])


def test_paired_difference() -> None:
    change, low, high = paired_difference([False] * 60 + [True] * 40, [True] * 80 + [False] * 20)
    assert change == pytest.approx(0.4)
    assert low < 0.4 < high
