"""matplotlib figures as SVG in a page: text stays text, colours are the page's, bytes always the same."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from html import escape
from typing import TYPE_CHECKING

from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.report.theme import INK, LINE, SOFT, stand_ins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

WIDTH = 360  # of every plot, in CSS pixels at a phone's width; wider pages scale it up
SIZE = 10.5  # of its text


def settings() -> AbstractContextManager[None]:
    """matplotlib's settings for drawing and saving. Raises EvalError where it is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise EvalError("the report needs matplotlib: pip install 'heedful[report]'") from error
    return matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "heedful",
            "svg.id": None,
            "font.size": SIZE,
            "text.color": INK,
            "text.parse_math": False,  # a name with two dollar signs is a name
            "axes.labelcolor": INK,
            "axes.edgecolor": SOFT,
            "axes.linewidth": 0.8,
            "axes.unicode_minus": True,
            "axes.facecolor": "none",
            "figure.facecolor": "none",
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "grid.color": LINE,
            "grid.linewidth": 0.7,
        }
    )


def canvas(height: float, left: float, right: float, top: float, bottom: float) -> tuple[Drawing, Axes]:
    """One pair of axes with these margins; all in pixels, since a point is one in the SVG."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(WIDTH / 72, height / 72), dpi=72)
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - top - bottom) / height)
    axes = drawing.add_axes(box)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.8)
    return drawing, axes


def inline(drawing: Drawing, name: str, label: str) -> str:
    """The `<svg>` element alone. `name` keeps its ids apart from those of other plots; `label` is read aloud."""
    file = io.StringIO()
    drawing.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    head, rest = text[: text.index(">") + 1], text[text.index(">") + 1 :]
    view = re.search(r'viewBox="[^"]+"', head)
    assert view, "matplotlib always writes one"
    rest = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", rest, flags=re.DOTALL)
    rest = re.sub(r"<!--.*?-->\s*", "", rest, flags=re.DOTALL)
    rest = re.sub(r'<g id="[^"]*"', "<g", rest)
    rest = re.sub(r"font-family: [^;\"]*;? ?", "", rest)
    rest = re.sub(r' transform="rotate\(-0 [^"]*"', "", rest)
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", rest)
    rest = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{name}-\1"', rest)
    rest = re.sub(r"\s*\n\s*", "\n", rest)
    for stand_in, variable in stand_ins().items():
        rest = rest.replace(stand_in, variable)
    return f'<svg {view.group(0)} role="img" aria-label="{escape(label)}">{rest.strip()}'
