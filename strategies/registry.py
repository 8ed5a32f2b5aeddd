"""Strategies by name: ours, listed here, and third parties' through the entry-point group `heedful.strategies`."""

from __future__ import annotations

from typing import Any

from heedful.strategies.errors import StrategyError
from heedful.strategies.plugins import Plugins
from heedful.strategies.run import ContextStrategy, DecodingStrategy, Strategy

BUILTIN = {
    "align3": "heedful.strategies.decode.align3:Align3",
    "best_of_n": "heedful.strategies.decode.best_of_n:BestOfN",
    "blockwise": "heedful.strategies.decode.blockwise:Blockwise",
    "demos": "heedful.strategies.context.demos:Demos",
    "direct": "heedful.strategies.decode.direct:Direct",
    "gate": "heedful.strategies.context.gate:GateStep",
    "norms": "heedful.strategies.context.norms:Norms",
    "principles": "heedful.strategies.context.principles:Principles",
    "rain": "heedful.strategies.decode.rain:Rain",
    "refine": "heedful.strategies.decode.refine:Refine",
    "tpo": "heedful.strategies.decode.tpo:Tpo",
    "urial": "heedful.strategies.context.urial:Urial",
}

_KINDS: tuple[type, ...] = (ContextStrategy, DecodingStrategy)
_TO_DEFINE = ("needs", "streaming", "prepare", "stream")


def _check(name: str, cls: type) -> None:
    kinds = [kind for kind in _KINDS if kind in cls.__mro__]
    if len(kinds) > 1 or Strategy not in cls.__mro__:
        raise StrategyError(f"strategy {name!r} must derive from either ContextStrategy or DecodingStrategy")
    for kind in kinds:
        for each in _TO_DEFINE:
            if hasattr(kind, each) and getattr(cls, each) is getattr(kind, each):
                raise StrategyError(f"strategy {name!r} must define `{each}`")


STRATEGIES: Plugins[Strategy] = Plugins(
    "strategy", "heedful.strategies", BUILTIN, _check, code="alignment_not_found"
)
names = STRATEGIES.names
build = STRATEGIES.build


def describe_options() -> dict[str, dict[str, Any]]:
    """Every strategy's kind and options: type and default, as JSON Schema has them; or why it can't be loaded."""
    described = STRATEGIES.describe()
    for name, about in described.items():
        if "error" not in about:
            described[name] = {"kind": STRATEGIES.load(name).kind, **about}
    return described
