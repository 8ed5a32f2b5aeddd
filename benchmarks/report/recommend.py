"""Which alignment for a goal and a budget: read from the records, said in two sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.evals.table import FIGURES, TableRow, measured
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.measures import kind, measure

COSTS = {"tokens": "tokens", "seconds": "s", "calls": "calls"}
"""What a budget may be of, by the figure of the evaluation: means over answers, hidden calls and prompts included."""
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(x|tokens?|seconds?|s|calls?)(?:\s*(tokens|seconds|calls))?")
_UNITS = {"t": "tokens", "s": "seconds", "c": "calls"}


@dataclass(frozen=True, slots=True)
class CostLimit:
    """At most so much for an answer, in the mean; `times`: so many times the baseline's."""

    most: float
    cost: str
    times: bool = False

    @classmethod
    def of(cls, text: str) -> CostLimit:
        """`3x` (the baseline's tokens), `2x seconds`, `500 tokens`, `1.5s`, `4 calls`. Raises EvalError."""
        found = _BUDGET.fullmatch(text.strip().lower())
        if found is None or (found[3] and found[2] != "x"):
            raise EvalError(f"--budget {text!r}: give 3x, 2x seconds, 500 tokens, 1.5s or 4 calls")
        if found[2] == "x":
            return cls(float(found[1]), found[3] or "tokens", times=True)
        return cls(float(found[1]), _UNITS[found[2][0]])

    def limit(self, baseline: TableRow) -> float:
        """Raises EvalError where the baseline's cost was not measured."""
        if not self.times:
            return self.most
        if (theirs := baseline.figures.get(self.cost)) is None:
            raise EvalError(f"--budget: the records have no {self.cost} of {baseline.alignment}")
        return self.most * theirs.value

    def words(self) -> str:
        unit = f"times the baseline's {self.cost}" if self.times else COSTS[self.cost]
        return f"{self.most:g} {unit}"


def goal_of(board: Board, goal: str) -> str:
    """The figure that a goal names. Raises EvalError with those that the records have."""
    there = [key for key in board.keys if kind(key) in FIGURES and FIGURES[kind(key)].better]
    there = [key for key in there if key not in COSTS and any(key in row.figures for row in board.rows)]
    found = [key for key in there if key == goal] or [key for key in there if kind(key) == goal]
    if not found:
        raise EvalError(
            f"--goal {goal!r}: the records of {board.model} have {', '.join(there) or 'no figures'}"
        )
    return found[0]


def frontier(rows: Sequence[TableRow], key: str, cost: str) -> list[TableRow]:
    """Those that no other beats in effect at the same cost or less, the cheapest first."""
    there = [row for row in rows if key in row.figures and cost in row.figures]
    best: list[TableRow] = []
    for row in sorted(there, key=lambda row: (row.figures[cost].value, -_good(row, key))):
        if not best or _good(row, key) > _good(best[-1], key):
            best.append(row)
    return best


def recommend(board: Board, goal: str, budget: CostLimit | None) -> str:
    """Two sentences. Raises EvalError for a goal or a budget that the records can't answer."""
    key, base = goal_of(board, goal), board.baseline
    cost = budget.cost if budget else "tokens"
    rows = [row for row in board.rows if key in row.figures and cost in row.figures]
    limit = budget.limit(base) if budget else float("inf")
    within = [row for row in rows if row.figures[cost].value <= limit]
    if not within:
        cheapest = min((row.figures[cost].value for row in rows), default=None)
        least = "" if cheapest is None else f"; the cheapest takes {_much(cheapest, cost)}"
        raise EvalError(
            f"nothing measured of {board.model} stays within {budget.words() if budget else ''}{least}"
        )
    verdicts = board.verdicts(key)
    better = [row for row in within if verdicts.get(row.alignment) == "better"]
    rests = f"This rests on {base.figures[key].n if key in base.figures else within[0].figures[key].n} items"
    if not better and base not in within:
        cheap = min(within, key=lambda row: row.figures[cost].value)
        told = (
            f"For {board.model} nothing within the budget is measurably better in {measured(key).title} than "
        )
        over = f"{base.alignment}, which is over it itself; {cheap.alignment} is the cheapest"
        return f"{told}{over}. {rests}{_beyond(rows, within, key, cost)}."
    if not better:
        told = f"For {board.model} stay with {base.alignment}: within the budget nothing is measurably better in "
        return f"{told}{measured(key).title}. {rests}{_beyond(rows, within, key, cost)}."
    best = max(better, key=lambda row: _good(row, key))
    near = [row for row in better if _overlap(row, best, key)]
    choice = min(near, key=lambda row: (row.figures[cost].value, -_good(row, key)))
    known, figure = measure(key), choice.figures[key]
    against = (
        f" against {known.text(base.figures[key].value)} with {base.alignment}" if key in base.figures else ""
    )
    spent = _much(choice.figures[cost].value, cost)
    theirs = f" ({base.alignment}: {_much(base.figures[cost].value, cost)})" if cost in base.figures else ""
    said = (
        f"For {board.model} take {choice.alignment}: {known.title} {known.text(figure.value)} "
        f"({known.interval(figure)}){against}, at {spent} an answer{theirs}."
    )
    like = [f"{row.alignment} {known.text(row.figures[key].value)}" for row in near if row is not choice]
    alike = f"; not told apart from it by their intervals, at more {cost}: {', '.join(like)}" if like else ""
    return f"{said} {rests}, told apart on the same items at 5%{alike}{_beyond(rows, within, key, cost)}."


def _beyond(rows: Sequence[TableRow], within: Sequence[TableRow], key: str, cost: str) -> str:
    """The best of what is over the budget, where it is better than all within it."""
    over = [row for row in rows if row not in within]
    best = max(over, key=lambda row: _good(row, key), default=None)
    if best is None or _good(best, key) <= max(_good(row, key) for row in within):
        return ""
    known = measure(key)
    figure = known.text(best.figures[key].value)
    return f"; over the budget {best.alignment} has {figure}, for {_much(best.figures[cost].value, cost)}"


def _good(row: TableRow, key: str) -> float:
    return row.figures[key].value * measured(key).better


def _overlap(one: TableRow, other: TableRow, key: str) -> bool:
    a, b = one.figures[key], other.figures[key]
    return a.low <= b.high and b.low <= a.high


def _much(value: float, cost: str) -> str:
    return f"{value:,.0f} tokens" if cost == "tokens" else f"{value:.2g} {COSTS[cost]}"
