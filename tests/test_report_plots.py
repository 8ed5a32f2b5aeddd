"""What the report's plots show, read from the SVG: names, figures, intervals, and that no name lies on another."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest

from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.evals.table import Figure
from heedful.benchmarks.report import plots, vega
from heedful.benchmarks.report.measures import measure
from heedful.benchmarks.report.theme import styles

TIME, HARMLESS = measure("latency"), measure("harmlessness")


@dataclass(frozen=True)
class Drawn:
    """An element that can be seen, with where it is in the drawing and of which of Vega's marks it is."""

    kind: str
    mark: str
    x: float
    y: float
    has: dict[str, str]
    text: str

    @property
    def x2(self) -> float:
        return self.x + float(self.has.get("x2", 0))

    @property
    def y2(self) -> float:
        return self.y + float(self.has.get("y2", 0))


def _read(svg: str) -> list[Drawn]:
    found: list[Drawn] = []

    def walk(element: ElementTree.Element, mark: str, x: float, y: float) -> None:
        kind = element.tag.rpartition("}")[2]
        mark = element.get("class", mark)
        by_x, by_y = element.get("transform", "translate(0,0)")[len("translate(") : -1].split(",")
        x, y = x + float(by_x), y + float(by_y)
        if kind != "g" and element.get("opacity") != "0":
            found.append(Drawn(kind, mark, x, y, dict(element.attrib), element.text or ""))
        for child in element:
            walk(child, mark, x, y)

    walk(ElementTree.fromstring(svg), "", 0, 0)
    return found


def _size(svg: str) -> tuple[float, float]:
    width, height = ElementTree.fromstring(svg).attrib["viewBox"].split()[2:]
    return float(width), float(height)


def _box(text: Drawn) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of its letters."""
    alone = vega.mark("text", None, {"text": text.text}, style="name")
    width = _size(vega.svg({"autosize": "pad", "padding": 0, "width": 1, "height": 1, "marks": [alone]}))[0]
    left = text.x - {"start": 0, "middle": 0.5, "end": 1}[text.has["text-anchor"]] * width
    return left, text.y - 0.75 * vega.SIZE, left + width, text.y + 0.1 * vega.SIZE


def _rectangles(drawn: list[Drawn]) -> list[tuple[float, float, float, float]]:
    """Left, top, width, height of each."""
    paths = [(d, re.findall(r"-?[\d.]+", d.has["d"])) for d in drawn if "mark-rect" in d.mark]
    return [(d.x + float(x), d.y + float(y), float(w), float(h)) for d, (x, y, w, h, _) in paths]


def _marks(points: list[tuple[float, float]], names: list[str] | None = None) -> list[plots.Mark]:
    names = names or [f"strategy-{place}" for place in range(len(points))]
    of = styles(names)
    return [
        plots.Mark(name, of[name], Figure(x, x - 0.1, x + 0.2, 9), Figure(y, y - 0.05, y + 0.02, 9))
        for name, (x, y) in zip(names, points, strict=True)
    ]


def _crowd(count: int) -> list[plots.Mark]:
    rng = np.random.default_rng(count)
    return _marks([(1 + 0.03 * rng.random(), 0.9 + 0.01 * rng.random()) for _ in range(count)])


@pytest.mark.parametrize("count", [1, 5, 16])
def test_names_in_a_crowd_lie_neither_on_each_other_nor_outside(count: int) -> None:
    marks = _crowd(count)
    svg = plots.scatter(marks, TIME, HARMLESS)
    names = [drawn for drawn in _read(svg) if drawn.kind == "text" and "names" in drawn.mark]
    assert sorted(name.text for name in names) == sorted(mark.name for mark in marks)
    boxes = [_box(name) for name in names]
    width, height = _size(svg)
    assert all(0 <= box[0] and box[2] <= width and 0 <= box[1] and box[3] <= height for box in boxes)
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    points = [drawn for drawn in _read(svg) if "points" in drawn.mark]
    assert len(points) == count
    for box in boxes:
        assert not any(box[0] < p.x < box[2] and box[1] < p.y < box[3] for p in points)


def test_where_there_is_no_place_left_names_are_still_there() -> None:
    marks = _crowd(60)
    texts = [drawn.text for drawn in _read(plots.scatter(marks, TIME, HARMLESS))]
    assert all(texts.count(mark.name) == 1 for mark in marks)


def test_a_scatter_has_both_intervals_and_the_baselines_band() -> None:
    marks = _marks([(1.0, 0.5), (2.0, 0.8)])
    drawn = _read(plots.scatter(marks, TIME, HARMLESS))
    across = [d for d in drawn if d.has.get("stroke-width") == "1.3" and d.has["x2"] != "0"]
    up = [d for d in drawn if d.has.get("stroke-width") == "1.3" and d.has["y2"] != "0"]
    points = [d for d in drawn if "points" in d.mark]
    pixels = (points[1].x - points[0].x) / (2.0 - 1.0)
    for bar, point in zip(across, points, strict=True):
        assert (bar.x, bar.x2) == pytest.approx((point.x - 0.1 * pixels, point.x + 0.2 * pixels))
    pixels = (points[0].y - points[1].y) / (0.8 - 0.5)
    for bar, point in zip(up, points, strict=True):
        assert (bar.y, bar.y2) == pytest.approx((point.y + 0.05 * pixels, point.y - 0.02 * pixels))
    ((_, top, _, height),) = _rectangles(drawn)
    assert (top, top + height) == pytest.approx((up[0].y2, up[0].y), abs=0.01)
    assert points[0].has["d"] != points[1].has["d"] and points[0].has["fill"] == "var(--s0)"
    alone = _read(plots.scatter(marks[:1], TIME, HARMLESS))
    assert not _rectangles(alone)


def test_times_that_differ_fivefold_have_a_scale_that_says_so() -> None:
    near, far = _marks([(1.0, 0.5), (2.0, 0.8)]), _marks([(1.0, 0.5), (40.0, 0.8)])
    assert "(log scale)" in plots.scatter(far, TIME, HARMLESS)
    assert "(log scale)" not in plots.scatter(near, TIME, HARMLESS)
    ticks = [d.text for d in _read(plots.scatter(far, TIME, HARMLESS)) if "axis-label" in d.mark]
    assert {"1", "2", "5", "10", "20"} <= set(ticks)


def test_bars_begin_at_zero_and_have_figures() -> None:
    marks = _marks([(1.0, 0), (2.0, 0), (4.0, 0)])
    drawn = _read(plots.bars(marks, measure("calls")))
    widths = [width for _, _, width, _ in _rectangles(drawn)]
    assert widths == pytest.approx([widths[0], 2 * widths[0], 4 * widths[0]], rel=0.01)
    texts = [d.text for d in drawn if d.kind == "text"]
    assert texts == ["strategy-0", "strategy-1", "strategy-2", "1.0", "2.0", "4.0"]
    rules = [d for d in drawn if "mark-rule role-mark" in d.mark]
    assert [r.x2 - r.x for r in rules] == pytest.approx([0.3 * widths[0]] * 3, rel=0.01)
    assert "strategy-0" in plots.bars(_marks([(0.0, 0)]), measure("calls"))


def test_intervals_have_points_a_band_and_ticks_with_their_unit() -> None:
    marks = [
        plots.Mark(mark.name, mark.style, Figure(0.03 + 0.01 * place, 0.02, 0.05, 9))
        for place, mark in enumerate(_marks([(0, 0), (0, 0)]))
    ]
    drawn = _read(plots.intervals(marks, measure("pace")))
    rules = [d for d in drawn if "mark-rule role-mark" in d.mark]
    ((left, _, width, _),) = _rectangles(drawn)
    points = [d for d in drawn if "points" in d.mark]
    assert (left, left + width) == pytest.approx((rules[0].x, rules[0].x2), abs=0.01)
    for rule, point, share in zip(rules, points, (1 / 3, 2 / 3), strict=True):
        assert (point.x - rule.x) / (rule.x2 - rule.x) == pytest.approx(share)
    texts = [d.text for d in drawn if d.kind == "text"]
    assert {"30 ms", "40 ms", "20 ms", "50 ms"} <= set(texts)


def test_curves_rise_to_all_and_the_key_stands_in_the_order_of_the_medians() -> None:
    names = ["slow", "fast", "middling"]
    of = styles(names)
    waits = {"slow": [5.0, 6, 7], "fast": [1.0, 1.5, 2], "middling": [3.0, 3, 4]}
    drawn = _read(plots.cdf([(name, of[name], np.array(waits[name])) for name in names], TIME))
    assert [d.text for d in drawn if "legend-label" in d.mark] == ["fast", "middling", "slow"]
    lines = [d for d in drawn if d.mark.startswith("mark-line")]
    assert [line.has["stroke"] for line in lines] == [
        of[name].colour for name in ("fast", "middling", "slow")
    ]
    assert lines[1].has["stroke-dasharray"] == ",".join(f"{each:g}" for each in of["middling"].dash)
    ends = [tuple(map(float, line.has["d"].split("L")[-1].split(","))) for line in lines]
    assert len({height for _, height in ends}) == 1 and [x for x, _ in ends] == sorted(x for x, _ in ends)


def test_long_names_are_cut_and_stay_two() -> None:
    names = ["a-name-that-is-much-too-long-for-a-phone-" + end for end in ("one", "two")]
    marks = _marks([(1.0, 0.5), (2.0, 0.8)], names)
    curves = [(mark.name, mark.style, np.array([1.0, 2.0])) for mark in marks]
    for svg in (
        plots.bars(marks, TIME),
        plots.intervals(marks, TIME),
        plots.scatter(marks, TIME, HARMLESS),
        plots.cdf(curves, TIME),
    ):
        cut = [d.text for d in _read(svg) if d.text.startswith("a-name-that")]
        assert len(cut) == 2 and all(text.endswith("…") for text in cut)
        assert _size(svg)[0] == vega.WIDTH


def test_a_hostile_name_is_text_in_the_drawing() -> None:
    name = '</text><script>a("b")</script>&$x$'
    svg = plots.bars(_marks([(1.0, 0)], [name]), TIME)
    assert "<script" not in svg and any(d.text.startswith("</text><scr") for d in _read(svg))


def test_without_the_renderer_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(EvalError, match=r"pip install 'heedful\[report\]'"):
        plots.bars(_marks([(1.0, 0)]), TIME)
