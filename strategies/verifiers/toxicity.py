"""A toxicity classifier that runs anywhere: a linear model over hashed pieces of text, under a millisecond an answer.

Trained by benchmarks/scripts/train_toxicity.py; docs/refine.md has its data, accuracy and limits. The critique names
the worst attribute and its score, as that of Gou et al. 2023 (CRITIC, arXiv 2305.11738, section 4.3) does.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from heedful.prompts import Use
from heedful.strategies.engine import Capability
from heedful.strategies.run import Resources, Run
from heedful.strategies.sentences import split
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier

ATTRIBUTES = (
    "toxicity",
    "severe_toxicity",
    "profanity",
    "insult",
    "identity_attack",
    "threat",
    "sexually_explicit",
)
"""Perspective's; the first is the one that decides."""
BITS = 16
_LENGTHS = (2, 3, 4, 5)
_WORD = re.compile(r"[^\W_]+(?:['’*@$#!][^\W_]+)*")
_GOLDEN, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_SHIFT, _KEEP = np.uint64(29), np.uint64(64 - BITS)
_LONG = 2000  # characters
_BURST = 32  # sentences in a row; then others get their turn on the event loop
_USE = Use({"critique": {"toxicity": 90, "attribute": "insult", "percent": 80, "sentence": "You fool!"}})
WEIGHTS = Path(__file__).with_name("toxicity.v1.npz")


def features(text: str) -> NDArray[np.uint64]:
    """The distinct buckets, below 2**BITS, of a text's character 2- to 5-grams, words and pairs of words."""
    plain = " " + " ".join(unicodedata.normalize("NFKC", text).lower().split()) + " "
    codes = np.frombuffer(plain.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    buckets = []
    for n in _LENGTHS:
        if (count := len(codes) - n + 1) > 0:
            hashed = np.full(count, n, np.uint64)
            for k in range(n):
                hashed = hashed * _GOLDEN + codes[k : k + count]
            buckets.append(((hashed ^ (hashed >> _SHIFT)) * _MIX) >> _KEEP)
    words = [word.encode() for word in _WORD.findall(plain)]
    pairs = [a + b" " + b for a, b in zip(words, words[1:], strict=False)]
    crcs = [zlib.crc32(w) for w in words] + [zlib.crc32(p, 7) for p in pairs]
    buckets.append((np.array(crcs, np.uint64) * _GOLDEN) >> _KEEP)
    return np.unique(np.concatenate(buckets))


class Classifier:
    """Linear weights per bucket and attribute. `scale` and `bias` (one per attribute) make log-odds of their sum."""

    def __init__(
        self, weights: NDArray[np.int8], scale: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> None:
        self._weights, self._scale, self._bias = weights, scale, bias

    def __call__(self, text: str) -> NDArray[np.float32]:
        """Probability of each of ATTRIBUTES."""
        buckets = features(text)
        total = self._weights[buckets].sum(0, dtype=np.int32) / np.sqrt(max(1, len(buckets)))
        odds = self._bias + self._scale * total.astype(np.float32)
        found: NDArray[np.float32] = 1 / (1 + np.exp(-odds))
        return found


@cache
def classifier() -> Classifier:
    with np.load(WEIGHTS, allow_pickle=False) as saved:
        return Classifier(saved["weights"], saved["scale"], saved["bias"])


def _score(sentence: str) -> NDArray[np.float32]:
    # What is kept must be bounded in bytes too, and a "sentence" may be megabytes.
    return _kept_score(sentence) if len(sentence) <= _LONG else classifier()(sentence)


@lru_cache(1024)
def _kept_score(sentence: str) -> NDArray[np.float32]:
    """Kept, because an answer that is judged sentence by sentence comes again with each one."""
    return classifier()(sentence)


@dataclass(frozen=True)
class Toxicity(Verifier):
    """A bundled classifier for rude, hateful, threatening or sexual English text; it judges tone, not harm.

    Each sentence is scored, and the worst one counts: 1 - the probability that it is toxic is the score. Passes while
    that probability is below `threshold` (0.5 finds more, and calls more harmless sentences toxic).
    """

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    prompt: str = "verifiers/toxicity"
    needs: ClassVar[Capability] = Capability.NONE

    def ready(self, resources: Resources) -> Self:
        resources.prompt(self.prompt, param="alignment.verifiers.toxicity.prompt", use=_USE)
        classifier()
        return self

    def attributes(self, text: str) -> list[tuple[str, float]]:
        """The highest probability of each of ATTRIBUTES among a text's sentences."""
        scored = [_score(sentence) for sentence in split(text) if sentence.strip()]
        highest = np.max(scored, axis=0) if scored else np.zeros(len(ATTRIBUTES))
        return list(zip(ATTRIBUTES, map(float, highest), strict=True))

    async def verify(self, context: Context, answer: str, run: Run) -> Verdict:
        scored: list[tuple[NDArray[np.float32], str]] = []
        for i, sentence in enumerate(split(answer), 1):
            if sentence.strip():
                scored.append((_score(sentence), sentence))
            if i % _BURST == 0:
                await asyncio.sleep(0)
        if not scored:
            return Verdict(1.0, True)
        found, sentence = max(scored, key=lambda pair: float(pair[0][0]))
        toxic = float(found[0])
        if toxic < self.threshold:
            return Verdict(1 - toxic, True)
        worst = 1 + int(np.argmax(found[1:]))
        values = {
            "toxicity": round(100 * toxic),
            "attribute": ATTRIBUTES[worst].replace("_", " "),
            "percent": round(100 * float(found[worst])),
            "sentence": sentence.strip() if len(scored) > 1 else "",
        }
        critique = run.prompts.get(self.prompt).render("critique", **values)
        return Verdict(1 - toxic, False, critique, {"attribute": ATTRIBUTES[worst]})
