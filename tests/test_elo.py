"""Win rates and Elo ratings: known solutions, intervals, and what can't be rated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heedful.benchmarks.evals.elo import standings
from heedful.benchmarks.evals.records import Comparison


def game(
    i: int, a: str, b: str, first: float | None, second: float | None = None, model: str = "m"
) -> Comparison:
    second = first if second is None else second
    return Comparison(judge="j", set="s", id=str(i), model=model, a=a, b=b, first=first, second=second)


@pytest.mark.parametrize("won", [10, 50, 75, 99])
def test_two_players_by_the_closed_form(won: int) -> None:
    games = [game(i, "rain", "direct", float(i < won)) for i in range(100)]
    rain, direct = sorted(standings(games, "direct"), key=lambda s: s.alignment != "rain")
    share = won / 100
    assert rain.rating[0] == pytest.approx(1000 + 400 * math.log10(share / (1 - share)), abs=1e-4)
    assert direct.rating == (1000, 1000, 1000) and direct.win_rate is None
    assert rain.win_rate is not None and rain.win_rate[0] == share
    assert rain.win_rate[1] < share < rain.win_rate[2] and rain.rating[1] < rain.rating[0] < rain.rating[2]
    assert rain.compared == direct.compared == 100


def test_the_interval_of_a_win_rate_is_that_of_a_share() -> None:
    rain = standings([game(i, "rain", "direct", float(i < 60)) for i in range(100)], "direct")[0]
    assert rain.win_rate is not None
    half = 1.96 * math.sqrt(0.6 * 0.4 / 100)
    assert rain.win_rate[1:] == pytest.approx((0.6 - half, 0.6 + half), abs=0.02)
    # The rating is a function of the win rate, and so is its interval.
    for rating, share in zip(rain.rating, rain.win_rate, strict=True):
        assert rating == pytest.approx(1000 + 400 * math.log10(share / (1 - share)), abs=3)


def test_a_consistent_triple() -> None:
    """Strengths 1, 2 and 4 give these shares exactly, so they are what is found."""
    shares = {("b", "a"): 2 / 3, ("c", "b"): 2 / 3, ("c", "a"): 4 / 5}
    games = [game(i, x, y, share) for i in range(5) for (x, y), share in shares.items()]
    found = {s.alignment: s for s in standings(games, "a")}
    assert [s.alignment for s in standings(games, "a")] == ["c", "b", "a"]
    assert found["b"].rating == pytest.approx((1000 + 400 * math.log10(2),) * 3, abs=1e-3)
    assert found["c"].rating == pytest.approx((1000 + 400 * math.log10(4),) * 3, abs=1e-3)


def test_an_inconsistent_triple_by_hand() -> None:
    """Rock, paper, scissors with equal shares: all alike. The likelihood's equations are met for other shares too."""
    cycle = [("a", "b"), ("b", "c"), ("c", "a")]
    games = [game(i, x, y, 0.7) for i in range(4) for x, y in cycle]
    assert all(s.rating[0] == pytest.approx(1000, abs=1e-3) for s in standings(games, "a"))
    wins = {("a", "b"): 0.9, ("b", "c"): 0.6, ("a", "c"): 0.5}
    games = [game(i, x, y, share) for i in range(10) for (x, y), share in wins.items()]
    strength = {s.alignment: 10 ** ((s.rating[0] - 1000) / 400) for s in standings(games, "a")}
    for name in "abc":
        won = sum(p if name == x else 1 - p for (x, y), p in wins.items() if name in (x, y))
        expected = sum(
            strength[name] / (strength[name] + strength[other]) for other in "abc" if other != name
        )
        assert won == pytest.approx(expected, abs=1e-6)


def test_who_won_everything_gets_a_finite_rating() -> None:
    games = [game(i, "rain", "direct", 1.0) for i in range(20)]
    rain = standings(games, "direct")[0]
    assert rain.rating[0] == pytest.approx(1000 + 400 * math.log10(20.5 / 0.5), abs=1e-4)
    assert rain.win_rate == (1, 1, 1)


def test_orders_that_disagree_are_a_tie_and_missing_ones_are_counted() -> None:
    games = [game(i, "rain", "direct", 1.0, 0.0) for i in range(6)]
    games += [game(7, "rain", "direct", None, 1.0), game(8, "rain", "direct", 1.0, 1.0)]
    rain = standings(games, "direct")[0]
    assert (rain.compared, rain.missing) == (7, 1)
    assert rain.win_rate is not None and rain.win_rate[0] == pytest.approx(4 / 7)


def test_items_are_resampled_not_comparisons() -> None:
    """Ten comparisons of one item say no more than one does."""
    rng = np.random.default_rng(1)
    outcome = rng.random(30) < 0.7
    once = [game(i, "rain", "direct", float(w)) for i, w in enumerate(outcome)]
    assert standings(once * 10, "direct")[0].win_rate == standings(once, "direct")[0].win_rate


def test_what_can_not_be_rated_is_refused() -> None:
    with pytest.raises(ValueError, match="no comparisons"):
        standings([], "a")
    with pytest.raises(ValueError, match="several models"):
        standings([game(1, "a", "b", 1.0), game(2, "a", "b", 1.0, model="other")], "b")
    with pytest.raises(ValueError, match="links c, d to a"):
        standings([game(1, "a", "b", 1.0), game(2, "c", "d", 1.0)], "a")


def test_many_alignments_in_a_star_settle() -> None:
    games = [game(i, f"x{k}", "direct", float(i % 40 < k * 4)) for i in range(40) for k in range(11)]
    found = {s.alignment: s.rating[0] for s in standings(games, "direct")}
    assert found["x5"] == pytest.approx(1000, abs=0.01) and found["x1"] < found["x5"] < found["x9"]
