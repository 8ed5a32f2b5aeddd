"""Colours of the page in light and dark, one for each strategy, and shapes for those who don't see them.

Plots name the page's CSS variables: so one SVG serves both schemes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Name: (light, dark). Series differ in lightness as well as hue, for those who see fewer hues, and in their
# markers and dashes; all have a contrast of 3:1 or more with their background.
_INKS = {
    "ink": ("#1c1f23", "#e8e9eb"),
    "soft": ("#5a6068", "#a4abb5"),
    "line": ("#d5d9de", "#3a4048"),
    "band": ("#eceef1", "#262b32"),
    "paper": ("#ffffff", "#14171b"),
}
_SERIES = [
    ("#5a6068", "#b4bac3"),  # the baseline
    ("#0072b2", "#5db3ec"),
    ("#c8500a", "#f58f4e"),
    ("#00805f", "#35cfa2"),
    ("#a8378f", "#e98fd6"),
    ("#8a7400", "#e6d04a"),
    ("#3a2a9c", "#a99cf5"),
    ("#8c1f3f", "#e5778f"),
    ("#2793a6", "#86e3ef"),
    ("#75461a", "#c99b6b"),
]
_MARKERS = [
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "triangle-down",
    "M-1,-.5L-.5,-1L0,-.5L.5,-1L1,-.5L.5,0L1,.5L.5,1L0,.5L-.5,1L-1,.5L-.5,0Z",  # x
    "cross",
    "triangle-left",
    "triangle-right",
    "M0,-1L.29,-.4L.95,-.31L.48,.15L.59,.81L0,.5L-.59,.81L-.48,.15L-.95,-.31L-.29,-.4Z",  # star
]
_DASHES = [[], [], [8.5, 2.5], [2.5, 2], [10, 2.5, 2.5, 2.5]]

INK, SOFT, LINE, PAPER = (f"var(--{name})" for name in ("ink", "soft", "line", "paper"))


@dataclass(frozen=True, slots=True)
class Style:
    """How a strategy is drawn, in every plot: its CSS colour, Vega's shape or a path in its place, its dashes."""

    colour: str
    marker: str
    dash: list[float]


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The baseline's grey for the first, then one each; past the tenth, colours return with other shapes."""
    made = {}
    for place, name in enumerate(names):
        colour = place if place < len(_SERIES) else 1 + (place - 1) % (len(_SERIES) - 1)
        shape = place + place // len(_SERIES)
        made[name] = Style(
            f"var(--s{colour})", _MARKERS[shape % len(_MARKERS)], _DASHES[shape % len(_DASHES)]
        )
    return made


def variables(dark: bool) -> str:
    """The CSS declarations of a scheme."""
    inks = [(name, pair[dark]) for name, pair in _INKS.items()]
    series = [(f"s{place}", pair[dark]) for place, pair in enumerate(_SERIES)]
    return " ".join(f"--{name}: {colour};" for name, colour in inks + series)
