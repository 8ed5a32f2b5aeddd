"""Win rates and Elo ratings from comparisons, with bootstrap intervals over items.

The strengths are those of the Bradley-Terry model (1952) at the greatest likelihood, which is concave in their
logarithms (Hunter 2004, The Annals of Statistics 32), on Elo's scale: 400 points are odds of ten to one. Packages
find the same ones, but none where some are infinite (evalica rates all alike then, choix does not settle), and take
12 to 20 times as long over a bootstrap, one sample after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.evals.records import Comparison
from heedful.benchmarks.stats import Estimate, Floats, bootstrap, bootstrap_all, times

ANCHOR = 1000.0  # the baseline's rating
_PRIOR = 0.5
_ROUNDS, _CLOSE = 200, 1e-9  # of Newton's method: at most so many, until no log-strength moves by more


@dataclass(frozen=True, slots=True)
class Standing:
    """One alignment among those it was compared with.

    `rating` is relative to the baseline's 1000, whose own interval is therefore a point. `win_rate` is the share of
    comparisons with the baseline that it wins, ties half; None for the baseline, and where there were none.
    `compared` counts items with a readable comparison, `missing` comparisons without one.
    """

    alignment: str
    rating: Estimate
    win_rate: Estimate | None
    compared: int
    missing: int


def standings(comparisons: Sequence[Comparison], baseline: str) -> list[Standing]:
    """All alignments, the best first. A comparison counts as won by the mean preference of its two orders.

    Where some alignments have won everything against the others, the strengths that fit best are infinite (Ford
    1957); then each two that were compared count half a win more each way. Raises ValueError for no comparisons, for
    those of several models or judges, and for alignments that no chain of comparisons links to the baseline.
    """
    if not comparisons:
        raise ValueError("no comparisons, so no ratings")
    if len({(c.model, c.judge) for c in comparisons}) > 1:
        raise ValueError("comparisons of several models or judges: rate each of them on its own")
    names = sorted({name for c in comparisons for name in (c.a, c.b)} | {baseline})
    items = sorted({(c.set, c.id) for c in comparisons})
    place = {name: i for i, name in enumerate(names)}
    row = {item: i for i, item in enumerate(items)}
    wins = np.zeros((len(items), len(names), len(names)))
    missing = dict.fromkeys(names, 0)
    for c in comparisons:
        if (preference := c.preference) is None:
            missing[c.a] += 1
            missing[c.b] += 1
            continue
        a, b = place[c.a], place[c.b]
        wins[row[c.set, c.id], a, b] += preference
        wins[row[c.set, c.id], b, a] += 1 - preference
    total = wins.sum(0)
    if apart := [
        n for n, linked in zip(names, _reach(_met(total))[place[baseline]], strict=True) if not linked
    ]:
        raise ValueError(f"no comparison links {', '.join(apart)} to {baseline}")

    def rated(samples: NDArray[np.int64], axis: int) -> Floats:
        """Of items drawn with replacement: one item's comparisons go together."""
        drawn = np.tensordot(times(samples, len(items)).astype(float), wins, 1)
        return _ratings(drawn, _met(total), place[baseline]).T

    ratings = bootstrap_all(np.arange(len(items)), rated)
    met = wins + wins.transpose(0, 2, 1) > 0
    found = [
        Standing(
            name,
            ratings[i],
            None if name == baseline else _win_rate(wins[:, i, place[baseline]], wins[:, place[baseline], i]),
            int(met[:, i].any(1).sum()),
            missing[name],
        )
        for name, i in place.items()
    ]
    return sorted(found, key=lambda s: -s.rating[0])


def _win_rate(won: Floats, lost: Floats) -> Estimate | None:
    """Of the items on which the two have met."""
    met = won + lost > 0
    if not met.any():
        return None
    won, lost = won[met], lost[met]
    return bootstrap(
        np.arange(len(won)),
        lambda samples, axis: won[samples].sum(axis) / (won[samples] + lost[samples]).sum(axis),
    )


def _met(total: Floats) -> NDArray[np.bool_]:
    return np.asarray(total + total.swapaxes(-1, -2) > 0)


def _reach(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which nodes, shape (..., n, n), can be reached from which along any number of edges."""
    n = edges.shape[-1]
    reach: NDArray[np.bool_] = edges | np.eye(n, dtype=bool)
    for _ in range(n.bit_length()):
        reach = reach @ reach
    return reach


def _ratings(wins: Floats, met: NDArray[np.bool_], anchor: int) -> Floats:
    """Elo ratings, shape (draws, n), of wins[d, i, j]: how often i has won against j. By Newton's method."""
    finite = _reach(wins > 0).all((1, 2))
    wins = wins + np.where(finite, 0.0, _PRIOR)[:, None, None] * met
    games, won = wins + wins.swapaxes(1, 2), wins.sum(2)
    free = np.arange(won.shape[1]) != anchor
    log = np.zeros(won.shape)
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(log[:, None, :] - log[:, :, None]))
        slope = won - (games * chance).sum(2)
        bend = -games * chance * chance.swapaxes(1, 2)
        bend -= bend.sum(2)[:, :, None] * np.eye(won.shape[1])
        step = np.linalg.solve(bend[:, free][:, :, free], slope[:, free, None])[:, :, 0]
        size = np.abs(step).max(1, initial=0.0, keepdims=True)
        # Damped while it is far away, where Newton's step may be too long.
        log[:, free] += step / (1 + size)
        if size.max() < _CLOSE:
            return np.asarray(ANCHOR + 400 / np.log(10) * log)
    raise ValueError("the ratings do not settle: too few comparisons link some of the alignments")
