"""Logistic regression over hashed pieces of an answer: needs numpy alone, and no model.

Trained by benchmarks/scripts/train_judges.py; docs/judges.md has data, accuracy and limits.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heedful.strategies.verifiers.toxicity import BITS, features

OPENING = 150  # characters; how an answer begins says more than where else the same words stand
_ENOUGH = 20_000  # characters of an answer that are read


def pieces(text: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Buckets below 2**(BITS + 1) and their values, both of shape (n,): the whole answer's, then its opening's."""
    whole, opening = features(text[:_ENOUGH]), features(text[:OPENING])
    buckets = np.concatenate([whole, opening + np.uint64(1 << BITS)]).astype(np.int64)
    values = [np.full(len(part), max(1, len(part)) ** -0.5, np.float32) for part in (whole, opening)]
    return buckets, np.concatenate(values)


class Linear:
    """8-bit weights per bucket, shape (2**(BITS + 1),); `scale` and `bias` make log-odds of their weighted sum."""

    def __init__(self, weights: NDArray[np.int8], scale: float, bias: float) -> None:
        self.weights, self.scale, self.bias = weights, scale, bias

    def __call__(self, text: str) -> float:
        """The probability that it is so."""
        buckets, values = pieces(text)
        odds = self.bias + self.scale * float(values @ self.weights[buckets].astype(np.float32))
        return 1 / (1 + math.exp(-odds)) if odds > -500 else 0.0


@cache
def load(path: Path) -> Linear:
    with np.load(path, allow_pickle=False) as saved:
        return Linear(saved["weights"], float(saved["scale"]), float(saved["bias"]))
