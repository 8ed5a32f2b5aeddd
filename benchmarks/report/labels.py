"""Where the names beside the points of a scatter plot go, so that none lies on another or on a point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Box = tuple[float, float, float, float]
"""left, bottom, right, top"""

_RINGS = (9.0, 16.0, 25.0, 36.0, 50.0, 66.0)
_TURNS = [math.tau * turn / 16 for turn in range(24)]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a label stands: its box, and how far it is from its point."""

    box: Box
    distance: float


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    bars: Sequence[Box],
    bounds: Box,
) -> list[Spot]:
    """A place for the label of each point, all in the same units.

    Each takes the best of over a hundred places around its point; three rounds, so that the first ones make way for
    the later. Points and other labels must not be covered, `bars` (error bars) better not, and a label should be
    nearer to its own point than to others.
    """
    marks = [(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    spots: list[Spot | None] = [None] * len(points)
    for _ in range(3):
        for i, (point, size) in enumerate(zip(points, sizes, strict=True)):
            labels = [spot.box for j, spot in enumerate(spots) if spot and j != i]

            others_marks = [mark for j, mark in enumerate(marks) if j != i]

            def cost(spot: Spot, labels: list[Box] = labels, marks: list[Box] = others_marks) -> float:
                outside = _area(spot.box) - _overlap(spot.box, bounds)
                covered = sum(_overlap(spot.box, box) for box in [*labels, *marks])
                nearer = sum(max(0.0, spot.distance - _gap(spot.box, mark)) for mark in marks)
                crossed = sum(_overlap(spot.box, bar) for bar in bars)
                return 50 * outside + 20 * covered + 3 * nearer + 0.2 * crossed + spot.distance

            spots[i] = min(_around(point, size), key=cost)
    return [spot for spot in spots if spot]


def _around(point: tuple[float, float], size: tuple[float, float]) -> list[Spot]:
    """Boxes whose nearest edge lies on rings around the point."""
    (x, y), (width, height) = point, size
    found = []
    for ring in _RINGS:
        for turn in _TURNS:
            middle_x = x + math.cos(turn) * (ring + width / 2)
            middle_y = y + math.sin(turn) * (ring + height / 2)
            box = (middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)
            found.append(Spot(box, ring))
    return found


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _gap(a: Box, b: Box) -> float:
    """The distance between two boxes."""
    return math.hypot(max(0.0, a[0] - b[2], b[0] - a[2]), max(0.0, a[1] - b[3], b[1] - a[3]))
