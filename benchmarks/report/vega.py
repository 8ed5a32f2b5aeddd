"""Vega specifications and their drawing as SVG: in this process, without a browser or a network.

Vega measures texts in a font that comes with the renderer, so that the bytes are the same on every machine.
"""

from __future__ import annotations

from typing import Any

from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.report.theme import INK, LINE, SOFT

VegaSpec = dict[str, Any]

WIDTH = 360  # of every plot, in CSS pixels at a phone's width; wider pages scale it up
SIZE = 10.5  # of its text
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first is measured, the next ones are as wide
_TEXT = {"labelFont": _FONT, "labelFontSize": SIZE, "labelColor": INK}
_TITLE = {"titleFont": _FONT, "titleFontSize": SIZE, "titleFontWeight": "normal", "titleColor": SOFT}
_CONFIG: VegaSpec = {
    "axis": {
        **_TEXT,
        **_TITLE,
        "domainColor": SOFT,
        "tickColor": SOFT,
        "tickSize": 3,
        "gridColor": LINE,
        "labelOverlap": "greedy",
        "titlePadding": 5,
    },
    "legend": {**_TEXT, **_TITLE, "symbolType": "stroke", "symbolStrokeWidth": 1.7, "rowPadding": 4},
    "title": {
        "font": _FONT,
        "fontSize": SIZE,
        "fontWeight": "normal",
        "color": SOFT,
        "anchor": "start",
        "frame": "group",
        "limit": WIDTH - 40,
        "offset": 6,
    },
    "style": {"name": {"font": _FONT, "fontSize": SIZE, "fill": INK}},
}


def svg(spec: VegaSpec) -> str:
    """The `<svg>` element, as wide as a phone. Raises EvalError where the renderer is not installed."""
    try:
        import vl_convert
    except ImportError as error:
        raise EvalError("the report needs vl-convert-python: pip install 'heedful[report]'") from error
    around = {
        "width": WIDTH,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": 3,
        "config": _CONFIG,
    }
    drawn: str = vl_convert.vega_to_svg(around | spec)
    return drawn


def mark(kind: str, data: str | None, channels: VegaSpec, **more: object) -> VegaSpec:
    """One mark, for each datum where there are `data`. A channel is a constant, or says where its value is."""
    encode = {name: c if isinstance(c, dict) else {"value": c} for name, c in channels.items()}
    source = {"from": {"data": data}} if data else {}
    return {"type": kind, **source, "encode": {"update": encode}, **more}


def at(scale: str, field: str) -> VegaSpec:
    """A field's value on a scale that has the same name as its axis."""
    return {"scale": scale, "field": field}


def field(name: str) -> VegaSpec:
    return {"field": name}


def signal(expression: str) -> VegaSpec:
    return {"signal": expression}
