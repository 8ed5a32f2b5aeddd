"""The sets an evaluation asks: readers of well-known files, and of a user's own JSON lines."""

from __future__ import annotations

from heedful.server.evals.items import Item, Measure

__all__ = ["Item", "Measure"]
