"""Token ids of texts that come again: norms, demonstrations, the options of a verdict."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

_LONG = 8192  # characters; a longer text is hardly asked for twice
_MOST_TOKENS = 500_000
_MOST_CHARACTERS = (
    8_000_000  # a text may have few tokens for its length, and an odd upstream may say so of any
)
_FRESH = 600.0  # seconds: another model may move in behind the same name


class TokenCache:
    """The ids that a remote tokenizer gave, for ten minutes; the least recently used go when it is full."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[tuple[str, bool], tuple[float, Sequence[int]]] = OrderedDict()
        self.tokens = 0
        """How many ids are kept, each entry counting one more for itself."""
        self.characters = 0
        """Of the texts that are kept."""

    def get(self, text: str, special: bool) -> Sequence[int] | None:
        key = (text, special)
        if (found := self._kept.get(key)) is None:
            return None
        if self._clock() - found[0] > _FRESH:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found[1]

    def put(self, text: str, special: bool, ids: Sequence[int]) -> None:
        if len(text) > _LONG or len(ids) > _MOST_TOKENS:
            return
        key = (text, special)
        if key in self._kept:
            self._drop(key)
        self._kept[key] = self._clock(), tuple(ids)
        self.tokens += 1 + len(ids)
        self.characters += len(text)
        while self.tokens > _MOST_TOKENS or self.characters > _MOST_CHARACTERS:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, bool]) -> None:
        self.tokens -= 1 + len(self._kept.pop(key)[1])
        self.characters -= len(key[0])
