"""A store from one place to another, whole: every version with its times and vector, and the marks of erasures."""

from __future__ import annotations

from collections.abc import Iterator

from heedful.retrieval.store.any_store import Kept, Progress
from heedful.retrieval.store.stores import Stores

_TOLD = 1000  # versions between two reports


def copy(name: str, source: Stores, target: Stores, progress: Progress) -> int:
    """Copies a store as it is now, embedding nothing, to where there is none of its name or an empty one; returns how
    many versions it has. All of it is there at the end, or nothing. Blocks.

    Both have the embedder that made the vectors. Raises UnknownStore; StoreError where the other one is not empty.
    """
    there = source.get(name, progress)
    copied, _ = target.create(name)
    total = max(1, len(there))

    def told(versions: Iterator[Kept]) -> Iterator[Kept]:
        for n, kept in enumerate(versions, 1):
            yield kept
            if n % _TOLD == 0:
                progress(f"copying {name}", min(1.0, n / total))

    with there.whole() as versions:
        return copied.take(told(versions), there.erasures())
