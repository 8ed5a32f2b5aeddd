"""Figures and intervals against those known from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from typer.testing import CliRunner

from heedful.benchmarks.stats import (
    bootstrap,
    gap_found,
    grouped_percentiles,
    paired_difference,
    paired_test,
    pairs_needed,
    percentiles,
    sign_flips,
    wilson,
)
from heedful.server.cli.main import app


def test_wilson() -> None:
    # Wilson's interval for 8 of 10, as textbooks have it.
    assert list(wilson(8, 10)) == pytest.approx([0.490, 0.943], abs=1e-3)
    assert wilson(0, 50)[0] == 0 and wilson(50, 50)[1] == pytest.approx(1)
    assert wilson(0, 0) == (0, 1)


def test_a_bootstrapped_mean_has_the_interval_of_its_standard_error() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    figure, low, high = bootstrap(list(values))
    error = 1.96 * values.std() / 20
    assert figure == pytest.approx(values.mean())
    assert [low, high] == pytest.approx([figure - error, figure + error], abs=0.03)


def test_a_percentile_lies_in_its_interval() -> None:
    ((figure, low, high),) = percentiles([float(i) for i in range(1000)], [90])
    assert figure == pytest.approx(899.1)
    assert 870 < low < figure < high < 930
    with pytest.raises(ValueError):
        bootstrap([])


def test_paired_difference() -> None:
    change, low, high = paired_difference([False] * 60 + [True] * 40, [True] * 80 + [False] * 20)
    assert change == pytest.approx(0.4)
    assert low < 0.4 < high


def test_a_single_value_is_its_own_interval() -> None:
    assert bootstrap([3.0]) == (3, 3, 3)
    assert percentiles([3.0], [50, 99]) == [(3, 3, 3)] * 2


def test_percentiles_of_groups_are_those_of_their_values_and_as_sure_as_there_are_groups() -> None:
    groups = [list(each) for each in np.random.default_rng(1).normal(0, 1, (30, 1)).repeat(40, 1)]
    ((figure, low, high),) = grouped_percentiles(groups, [50])
    assert figure == np.percentile(np.concatenate(groups), 50, method="inverted_cdf")
    assert (figure, low, high) == grouped_percentiles([each[:1] for each in groups], [50])[0]
    uneven = [[1.0], [2.0, 2.0, 2.0], [3.0]]
    assert [estimate[0] for estimate in grouped_percentiles(uneven, [20, 50, 81])] == [1, 2, 3]
    assert grouped_percentiles(uneven, [50])[0] == (2, 1, 3)


def test_sign_flips() -> None:
    # Of 2 ** 8 ways to give eight differences their signs, two have a mean as far from 0.
    assert sign_flips([1, 2, 3, 4, 5, 6, 7, 8]) == pytest.approx(2 / 2**8)
    # Of many, their mean is nearly normal.
    values = np.random.default_rng(1).normal(0.02, 0.3, 240)
    expected = 2 * NormalDist().cdf(-abs(values.mean()) * np.sqrt(240) / values.std())
    assert 0.1 < expected < 0.9 and sign_flips(values) == pytest.approx(expected, abs=0.02)
    assert sign_flips([1.0, -1.0] * 20) > 0.9


@pytest.mark.parametrize(
    "command", [["bench"], ["eval", "run", "--out", "there"], ["eval", "norms", "q.csv"]]
)
def test_without_scipy_a_measurement_does_not_begin(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy", None)
    run = CliRunner().invoke(app, command)
    assert "pip install 'heedful[measure]'" in str(run.exception)
    assert not list(tmp_path.iterdir())


def test_a_paired_test_is_exact_for_marks() -> None:
    """McNemar's: of 10 that differ 9 go one way; ties say nothing, and one size of marks is as good as another."""
    marks = [1.0] * 9 + [-1.0] + [0.0] * 30
    assert paired_test(marks) == pytest.approx(2 * (1 + 10) / 2**10)
    assert paired_test([mark / 2 for mark in marks]) == paired_test(marks)
    assert paired_test([0.0] * 5) == 1.0 and paired_test([1.0]) == 1.0
    uneven = [0.5, 0.25, 0.125, 0.3, 0.1, 0.4]
    assert paired_test(uneven) == pytest.approx(2 / 2**6)  # only all signs one way are as far from 0


@pytest.mark.parametrize(("gap", "differing"), [(0.1, 0.3), (0.2, 0.25), (0.05, 0.1)])
def test_so_many_pairs_find_a_gap_four_times_out_of_five(gap: float, differing: float) -> None:
    """By simulation, with the exact test that the report makes: a little stricter than the formula's."""
    needed, runs = pairs_needed(gap, differing), 4000
    up = (differing + gap) / 2
    marks = np.random.default_rng(3).multinomial(needed, [up, differing - up, 1 - differing], runs)
    tested: dict[tuple[int, int], bool] = {}
    found = 0
    for ups, downs, _ in marks.tolist():
        if (ups, downs) not in tested:
            tested[ups, downs] = paired_test([1.0] * ups + [-1.0] * downs) < 0.05
        found += tested[ups, downs]
    assert 0.74 < found / runs < 0.84


def test_pairs_for_differences_of_any_size() -> None:
    """Of normal differences: by simulation with the mean over its standard error."""
    gap, spread = 0.1, 0.4
    needed = pairs_needed(gap, spread**2 + gap**2)
    drawn = np.random.default_rng(4).normal(gap, spread, (4000, needed))
    z = drawn.mean(1) / (drawn.std(1, ddof=1) / needed**0.5)
    assert 0.76 < float((np.abs(z) > 1.96).mean()) < 0.85


def test_more_power_a_smaller_gap_and_a_stricter_level_take_more() -> None:
    usual = pairs_needed(0.1, 0.3)
    assert usual == 234  # by hand: (1.960 sqrt(.3) + .842 sqrt(.29))^2 / .01
    assert pairs_needed(0.05, 0.3) > 3.9 * usual and pairs_needed(0.1, 0.3, power=0.9) > usual
    assert pairs_needed(0.1, 0.3, alpha=0.01) > usual > pairs_needed(0.1, 0.2)
    with pytest.raises(ValueError, match="mean square"):
        pairs_needed(0.5, 0.2)
    gap = gap_found(usual, lambda each: max(0.3, each))
    assert gap == pytest.approx(0.1, abs=1e-3)
    assert gap_found(2, lambda each: max(0.3, each)) is None
