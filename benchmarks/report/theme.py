"""Colours of the page in light and dark, one for each strategy, and shapes for those who don't see them.

Plots are drawn in stand-in colours, which become CSS variables in the page: so one SVG serves both schemes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Name: (stand-in, light, dark). Series differ in lightness as well as hue, for those who see fewer hues, and in their
# markers and dashes; all have a contrast of 3:1 or more with their background.
_INKS = {
    "ink": ("#0a0001", "#1c1f23", "#e8e9eb"),
    "soft": ("#0a0002", "#5a6068", "#a4abb5"),
    "line": ("#0a0003", "#d5d9de", "#3a4048"),
    "band": ("#0a0004", "#eceef1", "#262b32"),
    "paper": ("#0a0005", "#ffffff", "#14171b"),
}
_SERIES = [
    ("#0b0000", "#5a6068", "#b4bac3"),  # the baseline
    ("#0b0001", "#0072b2", "#5db3ec"),
    ("#0b0002", "#c8500a", "#f58f4e"),
    ("#0b0003", "#00805f", "#35cfa2"),
    ("#0b0004", "#a8378f", "#e98fd6"),
    ("#0b0005", "#8a7400", "#e6d04a"),
    ("#0b0006", "#3a2a9c", "#a99cf5"),
    ("#0b0007", "#8c1f3f", "#e5778f"),
    ("#0b0008", "#2793a6", "#86e3ef"),
    ("#0b0009", "#75461a", "#c99b6b"),
]
_MARKERS = "osD^vPXpdh"
_DASHES: list[str | tuple[float, tuple[float, ...]]] = [
    "-",
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
]

INK, SOFT, LINE, BAND, PAPER = (stand_in for stand_in, _, _ in _INKS.values())


@dataclass(frozen=True, slots=True)
class Style:
    """How a strategy is drawn, in every plot. `variable` is its CSS colour."""

    colour: str
    variable: str
    marker: str
    dash: str | tuple[float, tuple[float, ...]]


def styles(names: Iterable[str]) -> dict[str, Style]:
    """The baseline's grey for the first, then one each; past the tenth, colours return with other shapes."""
    made = {}
    for place, name in enumerate(names):
        colour = place if place < len(_SERIES) else 1 + (place - 1) % (len(_SERIES) - 1)
        shape = place + place // len(_SERIES)
        made[name] = Style(
            _SERIES[colour][0],
            f"var(--s{colour})",
            _MARKERS[shape % len(_MARKERS)],
            _DASHES[shape % len(_DASHES)],
        )
    return made


def variables(dark: bool) -> str:
    """The CSS declarations of a scheme."""
    inks = [(name, pair[dark]) for name, (_, *pair) in _INKS.items()]
    series = [(f"s{place}", pair[dark]) for place, (_, *pair) in enumerate(_SERIES)]
    return " ".join(f"--{name}: {colour};" for name, colour in inks + series)


def stand_ins() -> dict[str, str]:
    """From each stand-in to its CSS variable."""
    inks = {stand_in: f"var(--{name})" for name, (stand_in, _, _) in _INKS.items()}
    return inks | {stand_in: f"var(--s{place})" for place, (stand_in, _, _) in enumerate(_SERIES)}
