"""The four kinds of plots. Each is as wide as a phone, and names its strategies where they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.evals.table import Figure
from heedful.benchmarks.report import labels
from heedful.benchmarks.report.measures import Measure
from heedful.benchmarks.report.svg import SIZE, WIDTH, canvas, inline
from heedful.benchmarks.report.theme import BAND, INK, PAPER, SOFT, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

_ROW = 21  # pixels of a row of bars
_CHARACTER = 0.56 * SIZE  # about, in most fonts; DejaVu and Verdana are the wide ones
_LONGEST = 22  # characters of a name before it is cut; the tables have it whole


@dataclass(frozen=True, slots=True)
class Mark:
    """A strategy's figure in a plot; `y` is the second one of a scatter plot."""

    name: str
    style: Style
    x: Figure
    y: Figure | None = None


def scatter(marks: Sequence[Mark], x: Measure, y: Measure, name: str, label: str) -> str:
    """`x` against `y` with both intervals; the first mark is the baseline, whose interval of `y` is a band."""
    from matplotlib.colors import to_rgba

    pairs = [(mark, mark.y) for mark in marks if mark.y is not None]
    drawing, axes = canvas(height=270, left=40, right=10, top=20, bottom=38)
    _scale(axes, x, [value for mark in marks for value in (mark.x.low, mark.x.high)], "x", room=0.12)
    _scale(axes, y, [value for _, up in pairs for value in (up.low, up.high)], "y", room=0.1)
    axes.grid(True)
    axes.set_axisbelow(True)
    base = pairs[0][1]
    if len(pairs) > 1:
        axes.axhspan(base.low, base.high, color=BAND, linewidth=0, zorder=0)
    for mark, up in pairs:
        axes.errorbar(
            mark.x.value,
            up.value,
            xerr=[[max(0, mark.x.value - mark.x.low)], [max(0, mark.x.high - mark.x.value)]],
            yerr=[[max(0, up.value - up.low)], [max(0, up.high - up.value)]],
            color=mark.style.colour,
            marker=mark.style.marker,
            markersize=7.5,
            markeredgecolor=PAPER,
            markeredgewidth=0.8,
            ecolor=to_rgba(mark.style.colour, 0.65),
            elinewidth=1.3,
            zorder=3,
        )
    to_pixels = axes.transData.transform
    points = [tuple(to_pixels((mark.x.value, up.value))) for mark, up in pairs]
    bars = []
    for mark, up in pairs:
        (left, bottom), (right, top) = to_pixels((mark.x.low, up.low)), to_pixels((mark.x.high, up.high))
        middle_x, middle_y = to_pixels((mark.x.value, up.value))
        bars += [(left, middle_y - 2, right, middle_y + 2), (middle_x - 2, bottom, middle_x + 2, top)]
    names = [_short(mark.name) for mark, _ in pairs]
    window = axes.get_window_extent()
    sizes = [(len(each) * _CHARACTER + 2, SIZE + 3) for each in names]
    spots = labels.place(points, sizes, bars, (window.x0, window.y0, window.x1, window.y1))
    for text, point, spot, (mark, _) in zip(names, points, spots, pairs, strict=True):
        left, bottom, right, top = spot.box
        middle = ((left + right) / 2, (bottom + top) / 2)
        if spot.distance > 10:
            near = (min(max(point[0], left), right), min(max(point[1], bottom), top))
            axes.plot(
                *zip(point, near, strict=True),
                transform=None,
                color=mark.style.colour,
                linewidth=0.7,
                zorder=2,
            )
        axes.text(*middle, text, transform=None, ha="center", va="center", zorder=5)
    _titles(axes, x, y)
    return inline(drawing, name, label)


def bars(marks: Sequence[Mark], measure: Measure, name: str, label: str) -> str:
    """A bar from zero for each, with its figure at the end."""
    drawing, axes = _rows(marks)
    high = max((mark.x.high for mark in marks), default=1) or 1
    axes.set_xlim(0, high * 1.02)
    for row, mark in enumerate(marks):
        axes.barh(row, mark.x.value, height=0.62, color=mark.style.colour, linewidth=0)
        axes.plot([mark.x.low, mark.x.high], [row, row], color=INK, linewidth=1)
        _at_right(axes, row, measure.text(mark.x.value))
    axes.spines["bottom"].set_visible(False)
    axes.xaxis.set_visible(False)
    return inline(drawing, name, label)


def intervals(marks: Sequence[Mark], measure: Measure, name: str, label: str) -> str:
    """A point and its interval for each; the first mark is the baseline, whose interval is a band."""
    from matplotlib.ticker import FuncFormatter

    drawing, axes = _rows(marks, bottom=22)
    _scale(axes, measure, [value for mark in marks for value in (mark.x.low, mark.x.high)], "x", room=0.06)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: measure.text(value)))
    if len(marks) > 1:
        axes.axvspan(marks[0].x.low, marks[0].x.high, color=BAND, linewidth=0, zorder=0)
    for row, mark in enumerate(marks):
        style = mark.style
        axes.plot([mark.x.low, mark.x.high], [row, row], color=style.colour, linewidth=1.8)
        axes.plot(
            mark.x.value, row, color=style.colour, marker=style.marker, markersize=7, markeredgecolor=PAPER
        )
        _at_right(axes, row, measure.text(mark.x.value))
    return inline(drawing, name, label)


def cdf(
    curves: Sequence[tuple[str, Style, NDArray[np.float64]]], measure: Measure, name: str, label: str
) -> str:
    """The share of requests that were done by then. The key stands in the order of the medians."""
    ordered = sorted(curves, key=lambda curve: float(np.median(curve[2])))
    names = [_short(each) for each, _, _ in ordered]
    key = max(13, *map(len, names)) * _CHARACTER + 22
    drawing, axes = canvas(height=max(210, 62 + 16 * len(curves)), left=38, right=key + 8, top=26, bottom=36)
    ends = [float(value) for _, _, values in curves for value in (values.min(), values.max())]
    _scale(axes, measure, ends, "x", room=0.03)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 1], ["0", "25%", "50%", "75%", "90%", "100%"])
    axes.grid(True)
    axes.set_axisbelow(True)
    for _, style, values in ordered:
        shares = np.linspace(0, 1, min(len(values), 150) + 1)[1:]
        times = np.quantile(values, shares, method="inverted_cdf")
        axes.plot(
            np.concatenate([times[:1], times]),
            np.concatenate([[0.0], shares]),
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.7,
            drawstyle="steps-post" if len(values) <= 150 else "default",
        )
    height = drawing.bbox.height
    x = WIDTH - key
    for row, (text, (_, style, _)) in enumerate(zip(names, ordered, strict=True)):
        y = height - 36 - 16 * row
        axes.plot(
            [x, x + 16],
            [y, y],
            transform=None,
            clip_on=False,
            color=style.colour,
            linestyle=style.dash,
            lw=1.7,
        )
        axes.text(x + 20, y, text, transform=None, va="center_baseline")
    if len(curves) > 1:
        axes.text(x, height - 12, "fastest first", transform=None, va="center", color=SOFT)
    axes.set_title("share done by then", loc="left", fontsize=SIZE, color=SOFT)
    axes.set_xlabel(f"seconds{_log(axes)}", color=SOFT)
    return inline(drawing, name, label)


def _rows(marks: Sequence[Mark], bottom: float = 4) -> tuple[Drawing, Axes]:
    """Axes with a row for each mark, its name on the left, and room for a figure on the right."""
    names = [_short(mark.name) for mark in marks]
    left = max(map(len, names)) * _CHARACTER + 10
    height = _ROW * len(marks) + bottom + 4
    drawing, axes = canvas(height=height, left=left, right=62, top=4, bottom=bottom)
    axes.set_ylim(len(marks) - 0.5, -0.5)
    axes.set_yticks(range(len(marks)), names)
    axes.tick_params(axis="y", length=0)
    return drawing, axes


def _at_right(axes: Axes, row: int, text: str) -> None:
    from matplotlib.transforms import blended_transform_factory

    beside = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(1.03, row, text, transform=beside, va="center_baseline")


def _scale(axes: Axes, measure: Measure, ends: Sequence[float], axis: str, room: float) -> None:
    """Limits around `ends`, logarithmic for times that differ fivefold, and few ticks that say what readers say."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = min(ends), max(ends)
    on = axes.xaxis if axis == "x" else axes.yaxis
    set_limits = axes.set_xlim if axis == "x" else axes.set_ylim
    if measure.unit == "seconds" and low > 0 and high > 5 * low:
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
        low, high = low / (high / low) ** room, high * (high / low) ** room
        length = axes.bbox.width if axis == "x" else axes.bbox.height
        steps = (1, 2, 5) if length > 85 * np.log10(high / low) else (1,)
        ticks = [step * 10.0**power for power in range(-4, 5) for step in steps]
        on.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        on.set_minor_locator(NullLocator())
    else:
        spread = (high - low) or abs(high) or 1.0
        low, high = low - room * spread, high + room * spread
        if measure.unit == "share":
            low, high = max(low, -0.02), min(high, 1.02)
        elif min(ends) >= 0:
            low = max(low, 0)
        on.set_major_locator(MaxNLocator(5))
    set_limits(low, high)
    seconds = measure.unit == "seconds"
    on.set_major_formatter(
        FuncFormatter(lambda v, _: f"{v:g}" if seconds else measure.text(v).replace("-", "−"))
    )


def _titles(axes: Axes, x: Measure, y: Measure) -> None:
    """What the axes show, in words: that of `y` above it, since turned letters are hard to read."""
    unit = f", seconds{_log(axes)}" if x.unit == "seconds" else ""
    axes.set_xlabel(f"{x.title}{unit}", color=SOFT)
    axes.set_title(f"↑ {y.title}", loc="left", fontsize=SIZE, color=SOFT)


def _log(axes: Axes) -> str:
    return " (log scale)" if axes.get_xscale() == "log" else ""


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
