"""Which plots the report has of a model, each with its caption: what it shows, over how many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from heedful.benchmarks.load.records import RequestRecord
from heedful.benchmarks.report import latency, plots
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.inputs import unique
from heedful.benchmarks.report.measures import (
    HARMLESSNESS,
    LATENCY,
    OBJECTIVE,
    OVER_REFUSAL,
    Measure,
    measure,
)
from heedful.benchmarks.report.recommend import frontier
from heedful.benchmarks.report.theme import Style

Styles = Mapping[str, Style]


@dataclass(frozen=True, slots=True)
class Plot:
    """`label` is read aloud in place of the drawing."""

    title: str
    svg: str
    label: str
    caption: str


def choice(board: Board, styles: Styles) -> Plot | None:
    """Time against harmlessness; with the evaluation's own times where no load was put."""
    key = LATENCY if board.load else "seconds"
    under = f"Load: {board.load}." if key == LATENCY else "Times are those of the evaluation's own requests."
    return _against(board, styles, key, board.key(HARMLESSNESS), f"Better is up and to the left. {under}")


def effects(board: Board, styles: Styles) -> list[Plot]:
    """Each objective task against what an answer costs: at equal tokens, the higher one is the better choice."""
    made = []
    for key in (board.key(name) for name in OBJECTIVE):
        best = [row.alignment for row in frontier(board.rows, key, "tokens")]
        words = f"Better is up and to the left; none is better at its tokens or less than: {', '.join(best)}."
        if plot := _against(board, styles, "tokens", key, words):
            made.append(plot)
    return made


def refusals(board: Board, styles: Styles) -> Plot | None:
    keys = board.key(OVER_REFUSAL), board.key(HARMLESSNESS)
    return _against(board, styles, *keys, "Better is up and to the left.")


def costs(board: Board, styles: Styles) -> list[Plot]:
    """Bars of what an answer takes, one plot for each kind of cost."""
    made = []
    time = LATENCY if board.load else "seconds"
    for key in (time, "calls", "hidden tokens", "answer tokens", "prompt tokens"):
        marks = _marks(board, styles, key)
        if marks:
            known = measure(key)
            load = f" Load: {board.load}." if key == LATENCY else ""
            caption = f"{_sentence(known.about)}{load} {_counts(marks)}"
            made.append(Plot(known.title, plots.bars(marks, known), _aloud(board, known, marks), caption))
    return made


def one(board: Board, styles: Styles, key: str) -> Plot | None:
    """A measure's intervals, for example the misalignment."""
    marks = _marks(board, styles, key)
    if not marks:
        return None
    known = measure(key)
    better = f"Better is {known.better}. " if known.better else ""
    without = [row.alignment for row in board.rows if key in row.undefined]
    undefined = f" Not defined for {', '.join(without)}." if without else ""
    caption = f"{_sentence(known.about)} {better}{_counts(marks)}{undefined}"
    return Plot(known.title, plots.intervals(marks, known), _aloud(board, known, marks), caption)


def curves(requests: Sequence[RequestRecord], board: Board, styles: Styles) -> list[Plot]:
    """Distributions of the times to the last byte and to the first piece of text, two plots for each load."""
    made = []
    kinds = {"time to answer": latency.totals, "time to the first piece of text": latency.firsts}
    for load in unique([r.load for r in requests if r.model == board.model]):
        cell = [r for r in requests if r.model == board.model and r.load == load]
        for title, read in kinds.items():
            times = {
                row.alignment: read([r for r in cell if r.alignment == row.alignment]) for row in board.rows
            }
            there = {alignment: waits for alignment, waits in times.items() if len(waits)}
            if not there:
                continue
            lines = [(alignment, styles[alignment], waits) for alignment, waits in there.items()]
            medians = {a: measure(LATENCY).text(float(np.median(t))) for a, t in there.items()}
            label = f"{board.model}, {load}: {title}. Medians: " + _words(medians)
            counts = _numbers({a: len(t) for a, t in there.items()})
            made.append(Plot(f"{title}, {load}", plots.cdf(lines, measure(LATENCY)), label, counts))
    return made


def _against(board: Board, styles: Styles, x: str, y: str, words: str) -> Plot | None:
    there = [row for row in board.rows if x in row.figures and y in row.figures]
    if not there:
        return None
    across, up = measure(x), measure(y)
    marks = [
        plots.Mark(row.alignment, styles[row.alignment], row.figures[x], row.figures[y]) for row in there
    ]
    label = f"{board.model}: {across.title} against {up.title}. " + "; ".join(
        f"{row.alignment}: {across.text(row.figures[x].value)}, {up.text(row.figures[y].value)}"
        for row in there
    )
    svg = plots.scatter(marks, across, up)
    left_out = [row.alignment for row in board.rows if row not in there]
    lacking = f" Without both figures: {', '.join(left_out)}." if left_out else ""
    band = f" Grey band: {there[0].alignment}'s interval." if len(there) > 1 else ""
    counts = _numbers(
        {row.alignment: row.figures[y].n for row in there}, {row.alignment: row.figures[x].n for row in there}
    )
    caption = f"{words}{band} 95% intervals; {counts}{lacking}"
    return Plot(f"{up.title} against {across.title}", svg, label, caption)


def _marks(board: Board, styles: Styles, key: str) -> list[plots.Mark]:
    rows = [row for row in board.rows if key in row.figures]
    return [plots.Mark(row.alignment, styles[row.alignment], row.figures[key]) for row in rows]


def _aloud(board: Board, known: Measure, marks: Sequence[plots.Mark]) -> str:
    figures = "; ".join(f"{m.name} {known.text(m.x.value)} ({known.interval(m.x)})" for m in marks)
    return f"{board.model}: {known.title}. {figures}"


def _counts(marks: Sequence[plots.Mark]) -> str:
    return _numbers({mark.name: mark.x.n for mark in marks})


def _numbers(*counts: dict[str, int]) -> str:
    """`n = 120 each`, of two kinds `n = 120 and 60 each`; those that differ by name."""
    each = {name: " and ".join(str(kind[name]) for kind in counts) for name in counts[0]}
    usual = Counter(each.values()).most_common(1)[0][0]
    others = {name: text for name, text in each.items() if text != usual}
    return f"n = {usual} each{f', but {_words(others)}' if others else ''}."


def _words(each: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in each.items())


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
