"""Norms that an alignment brings itself: to see what one would change before it is in a store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from heedful.retrieval import Item
from heedful.retrieval.items import item_of
from heedful.strategies.retrieve import retrieval_errors

INLINE = ""
"""Where a store's name stands for others; no store is called so."""
MOST_INLINE = 16
_LONGEST = 4000  # characters


@dataclass(frozen=True)
class InlineNorm:
    """As an item of a store says it."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=_LONGEST)]
    source: Annotated[str, Field(max_length=500)] = ""
    scope: str = ""
    tags: Annotated[tuple[str, ...], Field(max_length=64)] = ()
    mandatory: bool = False


def items(norms: Iterable[InlineNorm]) -> list[Item]:
    """As stores read them. Raises InvalidItem."""
    return [item_of(asdict(norm), kind="norm") for norm in norms]


def check_inline(norms: Iterable[InlineNorm]) -> None:
    """Raises RequestError that names the field of one that no store would take."""
    for i, norm in enumerate(norms):
        with retrieval_errors(f"alignment.norms.extra.{i}."):
            items([norm])
