"""What adding items takes, wherever they are kept: which texts are new, and their vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from heedful.retrieval.embedding.embedder import Embedder, Vectors
from heedful.retrieval.errors import InvalidItem
from heedful.retrieval.items import Item, by_id
from heedful.retrieval.store.database import Written
from heedful.retrieval.store.expected import Expected


class Writable(Protocol):
    """What is written to."""

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of these items that stand, by id."""
        ...

    def write(
        self, items: Sequence[Item], vectors: Mapping[str, Vectors], generation: str, known: Expected | None
    ) -> Written:
        """In one transaction. Raises KeyError where the vector of a text that is new is missing."""
        ...


def add(
    kept: Writable,
    embedder: Embedder,
    generation: str,
    items: Sequence[Item],
    vectors: Mapping[str, Vectors],
    expected: Expected | None,
) -> Written:
    """As `AnyStore.add`. `generation`: of the vectors that the embedder makes."""
    named = by_id(items)
    for text, vector in vectors.items():
        if vector.shape != (embedder.dimension,):
            raise InvalidItem(f"a vector of {text[:40]!r} has shape {vector.shape}", "vectors")
    while True:
        known = dict(vectors)
        if new := unembedded(kept, items, known):
            known |= zip(new, embedder.embed_now(new), strict=True)
        try:
            written = kept.write(list(named.values()), known, generation, expected)
        except KeyError:  # another writer has changed an item in between, so that its text is new again
            continue
        cut = embedder.truncated_now(new)
        return replace(written, truncated=[item.id for item in named.values() if item.text in cut])


def unembedded(kept: Writable, items: Sequence[Item], known: Mapping[str, Vectors]) -> list[str]:
    """As `AnyStore.unembedded`."""
    named = by_id(items)
    changed = [item for item in named.values() if item.text not in known]
    there = kept.texts([item.id for item in changed])
    return sorted({item.text for item in changed if there.get(item.id) != item.text})
