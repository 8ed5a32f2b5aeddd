"""The four kinds of plots. Each is as wide as a phone, and names its strategies where they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.evals.table import Figure
from heedful.benchmarks.report.measures import Measure
from heedful.benchmarks.report.theme import INK, PAPER, SOFT, Style
from heedful.benchmarks.report.vega import VegaSpec, at, field, mark, signal, svg

_ROW = 21  # pixels of a row of bars
_LONGEST = 125  # pixels of a name before it is cut; the tables have it whole
# Where a name may stand beside its point, the best first: eight sides, ever farther away.
_SIDES = ["right", "left", "top-right", "bottom-right", "top-left", "bottom-left", "top", "bottom"]
_AWAY = [4, 9, 16, 25, 36, 50, 66, 82, 98, 114, 130]
_FAR = 11  # pixels from which on a line leads from the point to its name


@dataclass(frozen=True, slots=True)
class Mark:
    """A strategy's figure in a plot; `y` is the second one of a scatter plot."""

    name: str
    style: Style
    x: Figure
    y: Figure | None = None


def scatter(marks: Sequence[Mark], x: Measure, y: Measure) -> str:
    """`x` against `y` with both intervals; the first mark is the baseline, whose interval of `y` is a band."""
    pairs = [(each, each.y) for each in marks if each.y is not None]
    across = _scale(x, [end for each in marks for end in (each.x.low, each.x.high)], "x", room=0.12)
    up = _scale(y, [end for _, figure in pairs for end in (figure.low, figure.high)], "y", room=0.1)
    unit = f", seconds{_log(across)}" if x.unit == "seconds" else ""
    line = {"stroke": field("colour"), "strokeWidth": 1.3, "strokeOpacity": 0.65}
    bars = [
        mark("rule", "marks", {"x": at("x", "low"), "x2": at("x", "high"), "y": at("y", "y"), **line}),
        mark("rule", "marks", {"x": at("x", "x"), "y": at("y", "y_low"), "y2": at("y", "y_high"), **line}),
    ]
    data = [_datum(each, y=up.value, y_low=up.low, y_high=up.high) for each, up in pairs]
    spec = {
        "height": 210,
        "title": f"↑ {y.title}",
        "data": [{"name": "marks", "values": data}],
        "scales": [across, up],
        "axes": [_axis(across, x, title=f"{x.title}{unit}"), _axis(up, y)],
        "marks": [
            *_band(pairs[0][1], "y", len(pairs)),
            *bars,
            _points(at("x", "x"), at("y", "y")),
            *_names(),
        ],
    }
    return svg(spec)


def bars(marks: Sequence[Mark], measure: Measure) -> str:
    """A bar from zero for each, with its figure at the end."""
    high = max((each.x.high for each in marks), default=1) or 1
    scale = {"name": "x", "domain": [0, high * 1.02], "range": "width"}
    bar = {
        "x": {"scale": "x", "value": 0},
        "x2": at("x", "x"),
        "y": at("name", "name"),
        "height": {"scale": "name", "band": 1},
        "fill": field("colour"),
    }
    line = {"x": at("x", "low"), "x2": at("x", "high"), "y": _middle(), "stroke": INK}
    return _rows(marks, measure, scale, [mark("rect", "marks", bar), mark("rule", "marks", line)], axes=[])


def intervals(marks: Sequence[Mark], measure: Measure) -> str:
    """A point and its interval for each; the first mark is the baseline, whose interval is a band."""
    ends = [end for each in marks for end in (each.x.low, each.x.high)]
    scale = _scale(measure, ends, "x", room=0.06)
    axis = _axis(scale, measure)
    if measure.unit == "seconds":  # no title says so, as in the other plots
        times, unit = ("1000 * ", "ms") if max(ends) < 0.0995 else ("", "s")
        text = signal(f"format({times}datum.value, '~g') + ' {unit}'")
        axis["encode"] = {"labels": {"update": {"text": text}}}
    line = {
        "x": at("x", "low"),
        "x2": at("x", "high"),
        "y": _middle(),
        "stroke": field("colour"),
        "strokeWidth": 1.8,
    }
    points = _points(at("x", "x"), _middle())
    drawn = [*_band(marks[0].x, "x", len(marks)), mark("rule", "marks", line), points]
    return _rows(marks, measure, scale, drawn, axes=[axis])


def cdf(curves: Sequence[tuple[str, Style, NDArray[np.float64]]], measure: Measure) -> str:
    """The share of requests that were done by then. The key stands in the order of the medians."""
    ordered = sorted(curves, key=lambda curve: float(np.median(curve[2])))
    ends = [float(value) for _, _, values in curves for value in (values.min(), values.max())]
    scale = _scale(measure, ends, "x", room=0.03)
    data, lines = [], []
    for place, (_, style, values) in enumerate(ordered):
        shares = np.linspace(0, 1, min(len(values), 150) + 1)
        times = np.quantile(values, shares, method="inverted_cdf")
        points = [{"time": float(t), "share": float(s)} for t, s in zip(times, shares, strict=True)]
        data.append({"name": f"curve{place}", "values": points})
        line = {
            "x": at("x", "time"),
            "y": at("y", "share"),
            "stroke": style.colour,
            "strokeDash": style.dash,
            "strokeWidth": 1.7,
            "interpolate": "step-after" if len(values) <= 150 else "linear",
        }
        lines.append(mark("line", f"curve{place}", line))
    names = [name for name, _, _ in ordered]
    colours, dashes = [style.colour for _, style, _ in ordered], [style.dash for _, style, _ in ordered]
    key = {
        "stroke": "colour",
        "strokeDash": "dash",
        "labelLimit": _LONGEST,
        "title": "fastest first" if len(curves) > 1 else None,
    }
    quarters = {"values": [0, 0.25, 0.5, 0.75, 0.9, 1], "format": ".0%"}
    spec = {
        "height": max(150, 20 + 16 * len(curves)),
        "title": "share done by then",
        "data": data,
        "scales": [
            scale,
            {"name": "y", "domain": [0, 1.02], "range": "height"},
            {"name": "colour", "type": "ordinal", "domain": names, "range": colours},
            {"name": "dash", "type": "ordinal", "domain": names, "range": dashes},
        ],
        "axes": [
            _axis(scale, measure, title=f"seconds{_log(scale)}"),
            {"scale": "y", "orient": "left", "grid": True, **quarters},
        ],
        "legends": [key],
        "marks": lines,
    }
    return svg(spec)


def _rows(
    marks: Sequence[Mark],
    measure: Measure,
    scale: VegaSpec,
    drawn: Sequence[VegaSpec],
    axes: Sequence[VegaSpec],
) -> str:
    """A row for each mark, its name on the left, its figure on the right."""
    names = {
        "name": "name",
        "type": "band",
        "domain": [each.name for each in marks],
        "range": "height",
        "paddingInner": 0.38,
        "paddingOuter": 0.19,
    }
    left = {
        "scale": "name",
        "orient": "left",
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelLimit": _LONGEST,
        "labelOverlap": False,
    }
    figure = {"x": signal("width + 8"), "y": _middle(), "text": field("text"), "baseline": "middle"}
    spec = {
        "height": _ROW * len(marks),
        "data": [{"name": "marks", "values": [_datum(m, text=measure.text(m.x.value)) for m in marks]}],
        "scales": [scale, names],
        "axes": [*axes, left],
        "marks": [*drawn, mark("text", "marks", figure, style="name")],
    }
    return svg(spec)


def _middle() -> VegaSpec:
    """The height of a row's middle."""
    return {"scale": "name", "field": "name", "band": 0.5}


def _datum(of: Mark, **more: object) -> VegaSpec:
    style = {"colour": of.style.colour, "marker": of.style.marker}
    return {"name": of.name, "x": of.x.value, "low": of.x.low, "high": of.x.high, **style, **more}


def _points(x: VegaSpec, y: VegaSpec) -> VegaSpec:
    shape = {"shape": field("marker"), "size": 62, "fill": field("colour")}
    edge = {"stroke": PAPER, "strokeWidth": 0.8}
    return mark("symbol", "marks", {"x": x, "y": y, **shape, **edge}, name="points")


def _names() -> list[VegaSpec]:
    """A name beside each of the `points`, on no other name and no point, and a line to those that stand far away.

    Of dozens in one spot the last find no place: these stand on others, rather than nowhere.
    """
    place = {
        "type": "label",
        "size": signal("[width, height]"),
        "anchor": _SIDES * len(_AWAY),
        "offset": [away for away in _AWAY for _ in _SIDES],
    }
    name = {"text": field("datum.name"), "limit": _LONGEST}
    far = f"datum.opacity && hypot(datum.x - datum.datum.x, datum.y - datum.datum.y) > {_FAR}"
    lead = {
        "x": field("datum.x"),
        "y": field("datum.y"),
        "x2": field("x"),
        "y2": field("y"),
        "stroke": INK,
        "strokeWidth": 0.8,
        "opacity": signal(f"{far} ? 1 : 0"),
    }
    left_over = {
        "text": signal("datum.opacity ? '' : datum.text"),
        "x": signal("datum.datum.x + 9"),
        "y": field("datum.y"),
        "limit": _LONGEST,
        "baseline": "middle",
    }
    return [
        mark("text", "points", name, name="names", style="name", zindex=1, transform=[place]),
        mark("rule", "names", lead),
        mark("text", "names", left_over, style="name"),
    ]


def _band(figure: Figure, axis: str, count: int) -> list[VegaSpec]:
    """The interval that others are held against, where there are others; the grid shines through."""
    if count < 2:
        return []
    low, high = ({"scale": axis, "value": end} for end in (figure.low, figure.high))
    whole = {"y": 0, "y2": signal("height")} if axis == "x" else {"x": 0, "x2": signal("width")}
    return [mark("rect", None, {axis: low, f"{axis}2": high, **whole, "fill": SOFT, "fillOpacity": 0.13})]


def _scale(measure: Measure, ends: Sequence[float], axis: str, room: float) -> VegaSpec:
    """Limits around `ends`, logarithmic for times that differ fivefold."""
    low, high = min(ends), max(ends)
    log = measure.unit == "seconds" and low > 0 and high > 5 * low
    if log:
        low, high = low / (high / low) ** room, high * (high / low) ** room
    else:
        spread = (high - low) or abs(high) or 1.0
        low, high = low - room * spread, high + room * spread
        if measure.unit == "share":
            low, high = max(low, -0.02), min(high, 1.02)
        elif min(ends) >= 0:
            low = max(low, 0)
    return {
        "name": axis,
        "type": "log" if log else "linear",
        "domain": [low, high],
        "range": "width" if axis == "x" else "height",
        "zero": False,
    }


def _axis(scale: VegaSpec, measure: Measure, title: str | None = None) -> VegaSpec:
    """Few ticks that say what readers say."""
    axis = {
        "scale": scale["name"],
        "orient": "bottom" if scale["name"] == "x" else "left",
        "grid": True,
        "title": title,
    }
    if not _log(scale):
        form = {"share": "%", "seconds": "~f"}.get(measure.unit, ",f")
        return axis | {"tickCount": 5, "format": form}  # as many decimals as tell the ticks apart
    low, high = scale["domain"]
    steps = (1, 2, 5) if high < 1000 * low else (1,)
    ticks = [step * 10.0**power for power in range(-4, 5) for step in steps]
    return axis | {"values": [tick for tick in ticks if low <= tick <= high], "format": "~g"}


def _log(scale: VegaSpec) -> str:
    return " (log scale)" if scale["type"] == "log" else ""
