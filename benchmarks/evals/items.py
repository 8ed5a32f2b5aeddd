"""What an evaluation asks: one item of a set, with what its measure needs to know."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from heedful.strategies.types import text_of
from heedful.strategies.verifiers.rules import Rule

Quality = Literal[
    "harmlessness",
    "over-refusal",
    "helpfulness",
    "truthfulness",
    "preference",
    "norms",
    "capability",
    "living",
    "rules",
    "bias",
]
SCORED: frozenset[Quality] = frozenset({"truthfulness", "preference", "norms", "bias"})
"""Measures that are read from the log-likelihood of given answers: nothing is generated for their items."""
OTHER_MARKS: dict[str, Quality] = {"stale": "living"}
"""Figures that judges give to items of a measure that has another figure of its own."""

VOTED = "page"
"""The set of what people have asked on the page and voted on: no run asks it again."""


class EvalItem(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation that ends with the user's turn, and what is known of a good answer to it.

    `candidates` are given answers, and `right` the places of the good ones: for truthfulness all true ones, the best
    first; for preference that of the chosen of two; for norms that of the right option; for living norms those of the
    values that hold, which an answer names or not. For bias it is the place of the answer that nobody can know, and
    then that of the stereotyped one. `answer` is the exact answer of a capability item; further ones that count too
    stand after a `|`. `rules`: what an answer has to keep, which code can check.
    """

    set: str
    id: str
    measure: Quality
    messages: tuple[dict[str, Any], ...]
    candidates: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    answer: str = ""
    rules: tuple[Rule, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.set}/{self.id}"

    @property
    def question(self) -> str:
        """The text of the last user turn."""
        return next((text_of(m) for m in reversed(self.messages) if m.get("role") == "user"), "")
