"""Of norms on one subject the newest: the later one repeals the earlier, also where nobody has ended that."""

from __future__ import annotations

import re
from collections.abc import Sequence

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.items import Item
from heedful.retrieval.store.readable import Found

_NUMBER = re.compile(r"\d+")


async def only_newest(
    found: Sequence[Found], alike: float, embedder: Embedder
) -> tuple[list[Found], list[tuple[Found, Found]]]:
    """What stays, each in the best place of its subject, and pairs of one that goes and the newer one it goes for.

    Two are on one subject where they are of one scope and the cosine of what they say is at least `alike`. Newer is
    the one that holds since a later time (`valid_from`, else when it was recorded); of two of the same time both
    stay, and mandatory ones do. Raises StoreError.
    """
    vectors = await embedder.embed([_subject(each.item) for each in found])
    alikes = vectors @ vectors.T
    stay: list[int] = []
    place = list(range(len(found)))
    gone: list[tuple[Found, Found]] = []
    for i in sorted(range(len(found)), key=lambda i: -_since(found[i])):
        own = found[i]
        newer = (
            j
            for j in stay
            if own.item.scope == found[j].item.scope
            and alikes[i, j] >= alike
            and _since(found[j]) > _since(own)
        )
        if own.score is None or (by := next(newer, None)) is None:
            stay.append(i)
        else:
            gone.append((own, found[by]))
            place[by] = min(place[by], place[i])
    return [found[i] for i in sorted(stay, key=lambda i: place[i])], gone


def _since(found: Found) -> float:
    return found.since if found.item.valid_from is None else found.item.valid_from


def _subject(item: Item) -> str:
    """What a norm is about: all that two of one subject share would make any two of one scope alike, and what they
    differ in is mostly a number. (Measured on sentences said in two ways: docs/tasks.md.)"""
    text = item.text.replace(item.scope, "") if item.scope else item.text
    return _NUMBER.sub("#", text)
