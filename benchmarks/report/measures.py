"""What the report knows of each measure: its name for readers, its unit, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from heedful.benchmarks.evals import table
from heedful.benchmarks.evals.table import Figure, measured

Unit = Literal["share", "seconds", "tokens", "calls", "points", "number"]
Compared = Literal["better", "worse"]
Better = Literal["higher", "lower"] | None
FEWEST = 8
"""Values below which a bootstrap interval says next to nothing. (A baseline of 0 is one by definition.)"""


@dataclass(frozen=True, slots=True)
class Measure:
    """`better` is None where neither way is: a cost in calls is better low, a prompt's length is just a fact."""

    key: str
    title: str
    unit: Unit = "number"
    better: Better = None
    about: str = ""

    def text(self, value: float) -> str:
        """A figure as readers want it: with its unit, and no more digits than they can use."""
        return self._write(value, value)

    def interval(self, figure: Figure) -> str:
        """Both ends, the unit once."""
        low, high = (self._write(end, figure.high) for end in (figure.low, figure.high))
        unit = next((unit for unit in ("%", " ms", " s") if high.endswith(unit)), "")
        return f"{low.removesuffix(unit)} to {high}"

    def _write(self, value: float, like: float) -> str:
        """`like` is of the size that chooses digits and unit."""
        match self.unit:
            case "share":
                return f"{100 * value:.0f}%"
            case "seconds" if like < 0.0995:
                return f"{1000 * value:.0f} ms" if like >= 0.00995 else f"{1000 * value:.1f} ms"
            case "seconds":
                return f"{value:.2f} s" if like < 9.995 else f"{value:.1f} s"
            case "tokens" | "points":
                return f"{value:,.0f}".replace("-", "\N{MINUS SIGN}")
            case "calls":
                return f"{value:.1f}"
            case "number":
                return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")

    def verdict(self, figure: Figure, baseline: Figure) -> Compared | None:
        """Better or worse than the baseline, or None where the 95% intervals overlap, or rest on too little."""
        if min(figure.n, baseline.n or figure.n) < FEWEST:
            return None
        if self.better is None or (figure.low <= baseline.high and baseline.low <= figure.high):
            return None
        return "better" if (figure.low > baseline.high) == (self.better == "higher") else "worse"


LATENCY, FIRST, PACE = "latency", "first token", "pace"
OBJECTIVE = ("living", "rules", "capability")
"""Measures that need nobody's judgement: each is drawn against what an answer costs."""
HARMLESSNESS, OVER_REFUSAL, MISALIGNMENT = "harmlessness", "over-refusal", "misalignment"
COSTS = ("calls", "hidden tokens", "answer tokens", "prompt tokens", "tokens", "seconds")

_TIMES = [
    Measure(f"{key}{tail}", f"{title}{percentile}", "seconds", "lower", f"{words} {about}")
    for key, title, about in (
        (LATENCY, "time to answer", "time to the last byte"),
        (FIRST, "first token", "time to the first piece of text"),
        (PACE, "between tokens", "gap between two pieces of text"),
    )
    for tail, percentile, words in (
        ("", "", "median"),
        (" p90", ", 90%", "90th percentile of the"),
        (" p99", ", 99%", "99th percentile of the"),
    )
]
TIMES = tuple(time.key for time in _TIMES)
"""Medians, 90th and 99th percentiles; the key of a median is the bare word."""
_COSTS = [
    Measure("calls", "model calls", "calls", "lower", "model calls for an answer, mean"),
    Measure(
        "hidden tokens",
        "hidden tokens",
        "tokens",
        "lower",
        "tokens written that the client does not get, mean",
    ),
    Measure("answer tokens", "answer tokens", "tokens", None, "tokens of the answer itself, mean"),
    Measure("prompt tokens", "prompt tokens", "tokens", None, "tokens read, hidden calls included, mean"),
    Measure("tokens", "all tokens", "tokens", "lower", "tokens read and written, mean"),
    Measure(
        "seconds", "seconds", "seconds", "lower", "time from request to last byte in the evaluation, mean"
    ),
]
_OWN = {each.key: each for each in [*_TIMES, *_COSTS]}
DETAILS = frozenset(_OWN) - {LATENCY, "calls"} | {"elo"}
"""Measures that the main table leaves to their own sections."""

BY_DEFINITION = {"helpfulness": 0.5, "tax": 0.0}
"""What the baseline would have of a measure that holds the others against it."""


def kind(key: str) -> str:
    """The measure of a figure, which with several judges is named "measure (judge)"."""
    return key.partition(" (")[0]


def measure(key: str) -> Measure:
    """A measure of the report's own (times, costs), or one of an evaluation's table."""
    if key in _OWN:
        return _OWN[key]
    known = measured(key)
    if kind(key) == "elo":
        about = "400 points are odds of ten to one; the baseline has 1,000"
        return Measure(key, "Elo rating" + key.removeprefix("elo"), "points", "higher", about)
    title, _, about = known.title.partition(": ")
    judge = key.removeprefix(kind(key))
    unit: Unit = "share" if known.share else "number"
    better: dict[int, Better] = {1: "higher", -1: "lower", 0: None}
    return Measure(key, title + judge, unit, better[known.better], about)


def place(key: str) -> tuple[int, str]:
    """Where a measure stands in tables: time first, then the evaluation's in their order, then costs."""
    if key in _OWN:
        order = list(_OWN).index(key)
        return (order if key in TIMES else 1000 + order), key
    return 100 + table.place(key)[0], key
