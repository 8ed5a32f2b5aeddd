"""Strategies by name: ours, listed here, and third parties' through the entry-point group `heedful.strategies`."""

from __future__ import annotations

from typing import Any

from heedful.strategies.errors import StrategyError
from heedful.strategies.plugins import Plugins
from heedful.strategies.run import ContextStrategy, DecodingStrategy

BUILTIN = {
    "best_of_n": "heedful.strategies.decode.best_of_n:BestOfN",
    "demos": "heedful.strategies.context.demos:Demos",
    "direct": "heedful.strategies.decode.direct:Direct",
    "norms": "heedful.strategies.context.norms:Norms",
    "principles": "heedful.strategies.context.principles:Principles",
    "rain": "heedful.strategies.decode.rain:Rain",
    "refine": "heedful.strategies.decode.refine:Refine",
    "urial": "heedful.strategies.context.urial:Urial",
}

AnyStrategy = ContextStrategy | DecodingStrategy


def _check(name: str, cls: type) -> None:
    if hasattr(cls, "prepare") == hasattr(cls, "stream"):
        raise StrategyError(f"strategy {name!r} must have either `prepare` or `stream`, and not both")
    if not hasattr(cls, "needs") or (hasattr(cls, "stream") and not hasattr(cls, "streaming")):
        raise StrategyError(f"strategy {name!r} must declare `needs` (and `streaming`, if it decodes)")


STRATEGIES: Plugins[AnyStrategy] = Plugins(
    "strategy", "heedful.strategies", BUILTIN, _check, code="alignment_not_found"
)
names = STRATEGIES.names
build = STRATEGIES.build


def describe_options() -> dict[str, dict[str, Any]]:
    """Every strategy's kind and options: type and default, as JSON Schema has them; or why it can't be loaded."""
    described = STRATEGIES.describe()
    for name, about in described.items():
        if "error" not in about:
            kind = "decoding" if hasattr(STRATEGIES.load(name), "stream") else "context"
            described[name] = {"kind": kind, **about}
    return described
