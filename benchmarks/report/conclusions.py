"""What the figures allow one to say of who is told apart from the baseline, and what the items could tell."""

from __future__ import annotations

from collections.abc import Sequence

from heedful.benchmarks.evals.table import TableRow, measured
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.measures import (
    BY_DEFINITION,
    COSTS,
    HARMLESSNESS,
    LATENCY,
    OBJECTIVE,
    OVER_REFUSAL,
    TIMES,
    kind,
    measure,
)
from heedful.benchmarks.report.power import MATTERS, power


def verdict(board: Board, matters: float = MATTERS) -> str:
    """The choice in one sentence: who gains, which of them is the fastest, and whether it pays with refusals."""
    base, key = board.baseline, board.key(HARMLESSNESS)
    apart = board.verdicts(key)
    if len(board.rows) == 1:
        return f"Only {base.alignment} was measured, so there is nothing to choose between."
    if not apart:
        return _clearest(board) or (
            f"Harmlessness was not measured for {base.alignment} and another, so no gain in it can be named."
        )
    better = [row for row in board.rows if apart.get(row.alignment) == "better"]
    if not better:
        none = f"None of {len(apart)} alignments is" if len(apart) > 1 else f"{next(iter(apart))} is not"
        told = f"{none} measurably more harmless than {base.alignment}"
        if known := power(board, key, matters):
            return f"{told}: {known.words()}."
        return f"{told}: these records show no such gain to pay for."
    verb = "is" if len(better) == 1 else "are"
    told = f"{len(better)} of {len(apart)} alignments {verb} measurably more harmless than {base.alignment}"
    return f"{told}{_fastest(board, better)}."


def conclude(board: Board, matters: float = MATTERS) -> list[str]:
    """A few sentences on one model with the figures, what can be told apart before what can't."""
    if len(board.rows) < 2:
        return []
    apart, alike = _harmlessness(board, matters)
    return [*apart, *_elsewhere(board), *alike, *_time(board)]


def _clearest(board: Board) -> str:
    """Where harmlessness was not measured: of the objective tasks the largest gain that is told apart."""
    gains = [
        (row.paired[key].difference * measured(key).better, key, row)
        for key in (board.key(name) for name in OBJECTIVE)
        for row in board.rows[1:]
        if key in row.paired
        and key in board.baseline.figures
        and board.verdicts(key)[row.alignment] == "better"
    ]
    if not gains:
        return ""
    gain, key, row = max(gains, key=lambda each: each[0])
    apart = board.verdicts(key)
    better = sum(each == "better" for each in apart.values())
    return (
        f"{row.alignment} gains {100 * gain:.0f} points in {measure(key).title} over {board.baseline.alignment}: "
        f"{_said(row, key)} against {_said(board.baseline, key)}, n = {row.paired[key].n}; "
        f"{better} of {len(apart)} alignments are measurably better"
        + (
            f", and {_and([n for n, each in apart.items() if not each])} can't be told apart"
            if None in apart.values()
            else ""
        )
        + "."
    )


def _fastest(board: Board, better: Sequence[TableRow]) -> str:
    """The fastest of those that gain, and all that are not told apart from it."""
    known = measure(LATENCY)
    timed = sorted((r for r in better if LATENCY in r.figures), key=lambda r: r.figures[LATENCY].value)
    if not timed:
        return f": {_and([row.alignment for row in better])}"
    near = [r for r in timed if r.figures[LATENCY].low <= timed[0].figures[LATENCY].high]
    names = _and([f"{r.alignment} ({known.text(r.figures[LATENCY].value)})" for r in near])
    base = board.baseline.figures.get(LATENCY)
    beside = f" against {known.text(base.value)} for {board.baseline.alignment}" if base else ""
    refusals = board.verdicts(board.key(OVER_REFUSAL))
    paying = [r.alignment for r in near if refusals.get(r.alignment) == "worse"]
    pays = f"; more safe prompts refused by {_and(paying)}" if paying else ""
    told = f", the fastest of them: {names}" if len(better) > 1 else f": {names} at the median"
    return f"{told}{beside}{pays}"


def _harmlessness(board: Board, matters: float) -> tuple[list[str], list[str]]:
    """Of those that are told apart, and of those that are not."""
    base, key = board.baseline, board.key(HARMLESSNESS)
    apart = board.verdicts(key)
    if not apart:
        return [], []
    rows = {
        name: [r for r in board.rows if apart.get(r.alignment, "") == name]
        for name in ("better", "worse", None)
    }
    against = f"{base.alignment}, {_said(base, key)}, n = {base.figures[key].n}"
    told, alike = [], []
    if rows["better"]:
        best = sorted(rows["better"], key=lambda row: -row.figures[key].value)
        told.append(f"More harmless than {against}: {_list(best, key)}.")
    if rows["worse"]:
        of = base.alignment if rows["better"] else against
        told.append(f"Less harmless than {of}: {_list(rows['worse'], key)}.")
    if rows[None]:
        of = base.alignment if told else against
        known = power(board, key, matters) if rows["better"] else None  # else the verdict has said it
        more = f" {known.words()[:1].upper()}{known.words()[1:]}." if known else ""
        alike.append(f"Not told apart in harmlessness from {of}: {_list(rows[None], key)}.{more}")
    return told, alike


def _time(board: Board) -> list[str]:
    base, known = board.baseline, measure(LATENCY)
    timed = sorted(
        (r for r in board.rows[1:] if LATENCY in r.figures), key=lambda r: r.figures[LATENCY].value
    )
    if LATENCY not in base.figures or not timed:
        return []
    theirs = base.figures[LATENCY].value
    ends = [(row.alignment, row.figures[LATENCY].value) for row in (timed[0], timed[-1])][: len(timed)]
    told = " to ".join(f"{known.text(time)} ({name}, {_ratio(time / theirs)})" for name, time in ends)
    others = "the others" if len(timed) > 1 else "the other"
    return [f"Median time to an answer: {base.alignment} {known.text(theirs)}; {others} {told}."]


def _elsewhere(board: Board) -> list[str]:
    """Clear changes of the evaluation's other measures."""
    told = []
    for key in board.keys:
        theirs, known = board.reference(key), measure(key)
        changed = [row for row in board.rows if board.verdicts(key).get(row.alignment)]
        if (
            key == board.key(HARMLESSNESS)
            or kind(key) in (*TIMES, *COSTS, "elo")
            or not changed
            or theirs is None
        ):
            continue
        words = ", ".join(f"{row.alignment} {known.text(row.figures[key].value)}" for row in changed)
        own = kind(key) not in BY_DEFINITION
        of = (
            f"{board.baseline.alignment} {known.text(theirs.value)}"
            if own
            else f"no change: {known.text(theirs.value)}"
        )
        told.append(f"{known.title} ({of}): {words}")
    return [f"Clear changes elsewhere: {'; '.join(told)}."] if told else []


def _list(rows: Sequence[TableRow], key: str) -> str:
    return ", ".join(f"{row.alignment} {_said(row, key)}" for row in rows)


def _said(row: TableRow, key: str) -> str:
    figure, known = row.figures[key], measure(key)
    return f"{known.text(figure.value)} ({known.interval(figure)})"


def _ratio(times: float) -> str:
    return f"{times:.2g} times" if times < 9.95 else f"{times:.0f} times"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
