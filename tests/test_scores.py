"""Scoring given tokens through an engine that reports only the likeliest."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from heedful.server.engines.scores import scored
from heedful.strategies import Continuation, Extension

PROBABILITIES = {t: 2.0 ** -(t + 1) for t in range(12)}


def logs(*tokens: int) -> Mapping[int, float]:
    return {t: math.log(PROBABILITIES[t]) for t in tokens}


async def test_a_token_that_is_not_reported_is_asked_for_alone() -> None:
    asked: list[tuple[Extension, int | None]] = []

    async def draw(extension: Extension, allowed: int | None = None) -> list[Continuation]:
        asked.append((extension, allowed))
        if allowed is not None:
            return [Continuation((allowed,), "", (logs(allowed, 0),))]
        return [Continuation((0,), "", (logs(*range(extension.logprobs or 0)),))] * extension.n

    (found,) = await scored(draw, Extension([7], max_tokens=1, logprob_token_ids=(2, 11)), most=5)
    assert found.token_ids == (0,)
    assert [found.logprobs[0][t] for t in (2, 11)] == pytest.approx([-3 * math.log(2), -12 * math.log(2)])
    assert [allowed for _, allowed in asked] == [None, 11]
    assert not any(e.logprob_token_ids for e, _ in asked)
    await scored(draw, Extension([7], max_tokens=1, logprob_token_ids=(2, 4)), most=5)
    assert len(asked) == 3
