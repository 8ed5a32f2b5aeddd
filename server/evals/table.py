"""The one table of an evaluation: every model at every alignment, with each measure's figure and its interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95% interval, over `n` items (of which `missing` have no value: errors, no opinion)."""

    value: float
    low: float
    high: float
    n: int
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one alignment. A measure that is not defined or not measured has no figure.

    `undefined` says why a measure can't be had (a decoding strategy has no likelihood).
    """

    model: str
    alignment: str
    figures: dict[str, Figure] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)


def rows(folder: Path) -> list[Row]:
    """The table of the journals in `folder`, in the order in which the run was asked for models and alignments."""
    raise NotImplementedError
