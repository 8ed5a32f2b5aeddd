"""The head of `benchmarks/scripts/train_reward.py`: what it is fitted to, and the split that it is measured on."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("transformers")

from heedful.benchmarks.scripts import train_reward
from heedful.benchmarks.scripts.train_reward import DEPTHS, Pairs, choose, fit, right


def _pairs(told_at: int, count: int = 240, width: int = 12) -> Pairs:
    """Noise, but after the depth in the place `told_at` one direction tells chosen from rejected in nine of ten."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(count, 2, len(DEPTHS), width)).astype(np.float32)
    states[:, 0, told_at, 3] += 2.5
    groups = np.arange(count) // 2
    return Pairs(states, np.ones((count, 2), int), groups, groups % 3 == 0)


def test_head_gives_log_odds_of_the_preference() -> None:
    rng = np.random.default_rng(1)
    chosen, rejected = rng.normal(size=(2, 4000, 5)).astype(np.float32)
    true = np.array([1.0, -2.0, 0.0, 0.5, 0.0])
    swapped = rng.random(4000) > 1 / (1 + np.exp(-(chosen - rejected) @ true))
    chosen[swapped], rejected[swapped] = rejected[swapped], chosen[swapped].copy()
    assert fit(chosen, rejected, 100.0) == pytest.approx(true, abs=0.2)


@pytest.mark.parametrize("at", range(len(DEPTHS)))
def test_depth_is_the_one_that_tells(at: int) -> None:
    accuracy, depth, _ = max(choose(_pairs(at)))
    assert depth == DEPTHS[at]
    assert accuracy > 0.85


def test_held_out_pairs_choose_nothing() -> None:
    pairs = _pairs(0)
    turned = Pairs(pairs.states.copy(), pairs.tokens, pairs.groups, pairs.held)
    turned.states[turned.held] = turned.states[turned.held][:, ::-1]
    assert list(choose(turned)) == list(choose(pairs))


def test_right_counts_pairs_by_the_reward() -> None:
    states = np.array([[[1, 0], [0, 9]], [[0, 5], [2, 0]], [[3, 3], [1, 1]]], np.float32)
    assert right(np.array([1.0, 0.0]), states) == 2


def test_padding_leaves_every_row_its_own_last_token() -> None:
    ids, mask = train_reward._padded([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
