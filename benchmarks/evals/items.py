"""What an evaluation asks: one item of a set, with what its measure needs to know."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from heedful.strategies.types import text_of

Quality = Literal[
    "harmlessness", "over-refusal", "helpfulness", "truthfulness", "preference", "norms", "capability"
]
SCORED: frozenset[Quality] = frozenset({"truthfulness", "preference", "norms"})
"""Measures that are read from the log-likelihood of given answers: nothing is generated for their items."""

VOTED = "page"
"""The set of what people have asked on the page and voted on: no run asks it again."""


class EvalItem(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation that ends with the user's turn, and what is known of a good answer to it.

    `candidates` are given answers, and `right` the places of the good ones: for truthfulness all true ones, the best
    first; for preference that of the chosen of two; for norms that of the right option. `answer` is the exact answer
    of a capability item; further ones that count too stand after a `|`.
    """

    set: str
    id: str
    measure: Quality
    messages: tuple[dict[str, Any], ...]
    candidates: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    answer: str = ""

    @property
    def key(self) -> str:
        return f"{self.set}/{self.id}"

    @property
    def question(self) -> str:
        """The text of the last user turn."""
        return next((text_of(m) for m in reversed(self.messages) if m.get("role") == "user"), "")
