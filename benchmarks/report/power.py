"""What so many items can tell apart, and how many it would take: for measures with a value for each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heedful.benchmarks.evals.table import Paired
from heedful.benchmarks.report.board import ALPHA, Board
from heedful.benchmarks.report.measures import FEWEST, measure
from heedful.benchmarks.stats import gap_found, pairs_needed

MATTERS = 0.1
"""The smallest difference that matters, unless a reader says otherwise: ten points."""


@dataclass(frozen=True, slots=True)
class Power:
    """Of one measure, with the fewest items that any alignment shares with the baseline.

    `found`: the smallest difference that they show four times out of five (None: not even the whole scale). `needed`:
    the items that show one of `matters`.
    """

    items: int
    found: float | None
    needed: int
    matters: float

    @property
    def enough(self) -> bool:
        return self.items >= self.needed

    def words(self) -> str:
        """As a sentence's second half."""
        points = f"{100 * self.matters:.3g} points"
        if self.enough:
            return f"{self.items:,} items would most likely have shown a difference of {points}"
        shown = (
            "can't show any difference"
            if self.found is None
            else f"show {100 * self.found:.0f} points or more"
        )
        return f"{self.items:,} items {shown}; to find {points} it takes about {self.needed:,}"


def power(board: Board, key: str, matters: float = MATTERS) -> Power | None:
    """None where no alignment has values to pair with the baseline's.

    The spread is that of all alignments' differences together, and the level is divided among them, as the report's
    test at most does.
    """
    paired = [row.paired[key] for row in board.rows[1:] if key in row.paired]
    if not paired:
        return None
    items, alpha = min(each.n for each in paired), ALPHA / len(paired)

    def squares(gap: float) -> float:
        return _squares(paired, gap)

    needed = max(FEWEST, pairs_needed(matters, squares(matters), alpha=alpha))
    found = gap_found(items, squares, alpha=alpha) if items >= FEWEST else None
    return Power(items, found, needed, matters)


def _squares(paired: Sequence[Paired], gap: float) -> float:
    """The mean square of differences that are spread as these are and have the mean `gap`."""
    total = sum(each.n for each in paired)
    if all(each.whole for each in paired):  # the share of items that differ, which is no less than the gap
        return max(sum(each.squares * each.n for each in paired) / total, gap)
    spread = sum((each.squares - each.difference**2) * each.n for each in paired) / total
    return float(spread + gap**2)


@dataclass(frozen=True, slots=True)
class ToldApart:
    """One measure: who is told apart from the baseline, and what its items can tell."""

    title: str
    about: str
    better: list[str]
    worse: list[str]
    alike: list[str]
    power: Power
    share: bool


def told_apart(board: Board, matters: float = MATTERS) -> list[ToldApart]:
    """Measures with a value for each item: those that tell the most alignments apart first."""
    made = []
    for key in board.keys:
        found = power(board, key, matters)
        if found is None:
            continue
        verdicts, known = board.verdicts(key), measure(key)
        by = {
            verdict: [name for name, each in verdicts.items() if each == verdict]
            for verdict in ("better", "worse", None)
        }
        made.append(
            ToldApart(
                known.title, known.about, by["better"], by["worse"], by[None], found, known.unit == "share"
            )
        )
    return sorted(made, key=lambda each: -len(each.better) - len(each.worse))
