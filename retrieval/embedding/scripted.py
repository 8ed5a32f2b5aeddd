"""An embedder without a model: texts that share words are near. Ships with the library, for anybody's tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np

from heedful.retrieval.embedding.embedder import Embedder, Encode, Vectors, unit


def word_embedder(
    name: str = "words",
    *,
    dimension: int = 64,
    salt: str = "",
    seen: list[str] | None = None,
    longest: int | None = None,
) -> Embedder:
    """Adds up a fixed random vector for each word; only of the first `longest` words.

    `seen` collects the texts that were encoded.
    """

    def encode(texts: list[str]) -> Vectors:
        if seen is not None:
            seen.extend(texts)
        return np.stack([_words(text) for text in texts])

    def _words(text: str) -> Vectors:
        total = np.full(dimension, 1e-3, np.float32)
        for word in re.findall(r"\w+", text.lower())[:longest]:
            seed = int.from_bytes(blake2b((salt + word).encode(), digest_size=8).digest())
            total += np.random.default_rng(seed).standard_normal(dimension, np.float32)
        return total

    return Embedder(name, lambda: _Words(encode, longest))


class _Words:
    """Tokens are words."""

    def __init__(self, encode: Encode, longest: int | None) -> None:
        self._encode, self.longest = encode, longest

    def __call__(self, texts: list[str]) -> Vectors:
        return self._encode(texts)

    def count(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


class ScriptedEmbedder(Embedder):
    """Vectors from a function of the text, at once and on the event loop: no thread, so nothing depends on time."""

    def __init__(self, vector: Callable[[str], Sequence[float]]) -> None:
        self._vector = vector
        super().__init__("scripted", lambda: self._unit)

    def _unit(self, texts: list[str]) -> Vectors:
        return unit(np.array([self._vector(text) for text in texts], np.float32))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return self._unit(list(texts))
