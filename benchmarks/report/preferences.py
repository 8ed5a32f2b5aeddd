"""What the order of two answers does to who compares them, and how far they agree. Ratings are the evaluation's."""

from __future__ import annotations

from dataclasses import dataclass

from heedful.benchmarks.evals.agreement import agreements
from heedful.benchmarks.evals.judges.pairwise import position_bias
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.inputs import Inputs, unique


@dataclass(frozen=True, slots=True)
class Preference:
    """What there is of one judge: the keys of its Elo rating and win rate in a row, and its bias in words."""

    judge: str
    rating: str
    win_rate: str
    bias: str


def preferences(inputs: Inputs, board: Board) -> list[Preference]:
    """One for each judge of a model's answers."""
    judges = unique([c.judge for c in inputs.comparisons])
    made = []
    for judge in judges:
        of = f" ({judge})" if len(judges) > 1 else ""
        if f"elo{of}" in board.keys:
            made.append(Preference(judge, f"elo{of}", f"helpfulness{of}", _bias(inputs, board.model, judge)))
    return made


def _bias(inputs: Inputs, model: str, judge: str) -> str:
    ours = [c for c in inputs.comparisons if (c.model, c.judge) == (model, judge)]
    told = [c for c in ours if c.preference is not None]
    if not told:
        return "Nothing was compared in both orders, so how much the order sways the judge is not known."
    value, low, high = (100 * each for each in position_bias(told))
    interval = f"{value:+.0f} points ({low:+.0f} to {high:+.0f}, n = {len(told)} comparisons)".replace(
        "-", "\N{MINUS SIGN}"
    )
    if low <= 0 <= high:
        return f"No position bias shows: {interval} for the answer that stands first, where 0 is none."
    side = "first" if value > 0 else "second"
    orders = "in an order that chance has drawn" if any(c.once for c in told) else "in both orders"
    return (
        f"The judge leans to the answer that stands {side}: {interval} for the first, where 0 is none. Each two "
        f"answers were shown {orders}, so that this cancels out."
    )


def agreement(inputs: Inputs, model: str) -> list[str]:
    """How far each two judges of a model's answers agree, in a sentence each."""
    return [each.words() for each in agreements(c for c in inputs.comparisons if c.model == model)]
