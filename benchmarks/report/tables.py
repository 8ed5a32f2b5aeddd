"""The report's main table: alignments by measures, for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from heedful.benchmarks.evals.table import TableRow
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.measures import (
    BY_DEFINITION,
    DETAILS,
    LATENCY,
    Compared,
    Measure,
    kind,
    measure,
)


@dataclass(frozen=True, slots=True)
class TableCell:
    """A figure, or in `text` alone why there is none.

    `interval` is empty where both ends read like the figure. `verdict` tells it apart from the
    baseline's; `best` is the best of those that are better than the baseline's.
    """

    text: str
    interval: str = ""
    n: int = 0
    missing: int = 0
    verdict: Compared | None = None
    best: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    measures: list[Measure]
    rows: list[tuple[str, list[TableCell]]]
    reasons: list[str]
    """Why what is not defined isn't."""


def main(board: Board) -> Table:
    """What one chooses by: time, the evaluation's measures, calls; first those that tell somebody apart."""
    times = [] if LATENCY in board.keys else ["seconds"]
    keys = [key for key in board.keys if kind(key) not in DETAILS or key in times]
    return table(board, sorted(keys, key=lambda key: not any(board.verdicts(key).values())))


def table(board: Board, keys: Sequence[str]) -> Table:
    verdicts = {key: board.verdicts(key) for key in keys}
    best = {key: _best(board, key) for key in keys}
    rows = [
        (row.alignment, [_cell(board, row, key, verdicts[key].get(row.alignment), best[key]) for key in keys])
        for row in board.rows
    ]
    why: dict[tuple[str, str], list[str]] = {}
    for row in board.rows:
        for key, reason in row.undefined.items():
            if key in keys and key not in row.figures:
                why.setdefault((row.alignment, reason), []).append(measure(key).title)
    reasons = [f"{', '.join(titles)} under {name}: {reason}" for (name, reason), titles in why.items()]
    return Table([measure(key) for key in keys], rows, reasons)


def _cell(board: Board, row: TableRow, key: str, verdict: Compared | None, best: str | None) -> TableCell:
    figure, known = row.figures.get(key), measure(key)
    if figure is None:
        if row is board.baseline and kind(key) in BY_DEFINITION:
            return TableCell("the baseline")
        return TableCell("not defined" if key in row.undefined else "not measured")
    text, low, high = (known.text(value) for value in (figure.value, figure.low, figure.high))
    interval = "" if text == low == high else known.interval(figure)
    return TableCell(text, interval, figure.n, figure.missing, verdict, row.alignment == best)


def _best(board: Board, key: str) -> str | None:
    """The best of those that are better than the baseline."""
    better = [name for name, verdict in board.verdicts(key).items() if verdict == "better"]
    values = {row.alignment: row.figures[key].value for row in board.rows if row.alignment in better}
    sign = 1 if measure(key).better == "higher" else -1
    return max(values, key=lambda name: sign * values[name], default=None)
