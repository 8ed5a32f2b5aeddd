"""How far two who compare answers agree: people and models as judges, over the pairs that both have judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.evals.records import Comparison
from heedful.benchmarks.stats import Estimate, Floats, bootstrap_all, times

JudgedPair = tuple[str, str, str, str, str]
_KINDS = 3  # of verdicts: the one, alike, the other


@dataclass(frozen=True, slots=True)
class Agreement:
    """`share`: of the pairs with the same verdict. `kappa`: what of it is beyond chance (Cohen 1960), 1 at most. Both
    with a bootstrap interval over items. `n` pairs, of `items` items."""

    one: str
    other: str
    share: Estimate
    kappa: Estimate
    n: int
    items: int

    def words(self) -> str:
        """As a page says it."""
        share, low, high = (f"{100 * each:.0f}" for each in self.share)
        kappa, least, most = (f"{each:.2f}".replace("-", "\N{MINUS SIGN}") for each in self.kappa)
        return (
            f"{self.one} and {self.other} give the same verdict on {share}% of {self.n} pairs ({low} to {high}%, "
            f"{self.items} items); beyond chance, \N{GREEK SMALL LETTER KAPPA} = {kappa} ({least} to {most})."
        )


def verdict(comparison: Comparison) -> int | None:
    """0: `a` is better, 1: alike, 2: `b` is. A preference that turns with the order is none. None: no verdict."""
    preference = comparison.preference
    if preference is None:
        return None
    if not comparison.once and (comparison.first or 0) > 0.5 > (comparison.second or 0):
        return 1
    if not comparison.once and (comparison.first or 0) < 0.5 < (comparison.second or 0):
        return 1
    return 1 if preference == 0.5 else 0 if preference > 0.5 else 2


def agreements(comparisons: Iterable[Comparison]) -> list[Agreement]:
    """Of each two judges that have judged the same pairs, in the order of their first appearance."""
    by_judge: dict[str, dict[JudgedPair, int]] = defaultdict(dict)
    for c in comparisons:
        if (given := verdict(c)) is not None:
            turned = c.a > c.b  # both judges' verdicts on a pair are read the same way round
            names = (c.b, c.a) if turned else (c.a, c.b)
            by_judge[c.judge][c.set, c.id, c.model, *names] = 2 - given if turned else given
    made = (
        _agreement(one, other, by_judge[one], by_judge[other]) for one, other in combinations(by_judge, 2)
    )
    return [each for each in made if each is not None]


def _agreement(
    one: str, other: str, ones: dict[JudgedPair, int], others: dict[JudgedPair, int]
) -> Agreement | None:
    both = [pair for pair in ones if pair in others]
    if not both:
        return None
    items = {item: i for i, item in enumerate(dict.fromkeys(pair[:2] for pair in both))}
    counts = np.zeros((len(items), _KINDS, _KINDS))
    for pair in both:
        counts[items[pair[:2]], ones[pair], others[pair]] += 1

    def figures(samples: NDArray[np.int64], axis: int) -> Any:
        return _share_and_kappa(np.tensordot(times(samples, len(items)).astype(float), counts, 1))

    share, kappa = bootstrap_all(np.arange(len(items)), figures)
    return Agreement(one, other, share, kappa, len(both), len(items))


def _share_and_kappa(counts: Floats) -> Floats:
    """Of tables of verdicts, shape (draws, 3, 3). Where chance alone agrees always, so do they: 1."""
    total = counts.sum((1, 2))
    share = np.trace(counts, axis1=1, axis2=2) / total
    chance = (counts.sum(2) * counts.sum(1)).sum(1) / total**2
    beyond = np.divide(share - chance, 1 - chance, out=np.ones_like(share), where=chance < 1)
    return np.stack([share, beyond])
