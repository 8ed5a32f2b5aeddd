"""What verifiers say as one number: its sign, its weights, what is asked once, and texts without a word."""

from __future__ import annotations

from typing import Any

import pytest

from heedful.prompts import Prompts
from heedful.strategies import ChatRequest, Context, RequestError, Resources, Run, Verdict
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.grading import Grader, Grading, grade

RESOURCES = Resources(Prompts())
ASKED = Context.of(ChatRequest("m", ({"role": "user", "content": "Hi"},)))
NO_X: dict[str, Any] = {"policy": {"words": ["x"]}}
NO_Y: dict[str, Any] = {"policy": {"words": ["y"]}}


def grader(*specs: Any, weights: tuple[float, ...] = (), begun: str = "") -> Grader:
    grading = Grading.of(specs, weights, RESOURCES, on_error="fail", timeout=5, param="p")
    return Grader(grading, ASKED, Run(ScriptedEngine(), RESOURCES), begun)


@pytest.mark.parametrize(
    ("score", "passed", "expected"), [(1.0, True, 1), (0.4, True, 0.4), (0.4, False, -0.6), (0.0, False, -1)]
)
def test_a_grade_has_the_sign_of_the_verdict(score: float, passed: bool, expected: float) -> None:
    assert grade(Verdict(score, passed)) == pytest.approx(expected)


async def test_the_lowest_counts_or_the_weighted_mean() -> None:
    assert await grader(NO_X, NO_Y).grade("a b") == 1
    assert await grader(NO_X, NO_Y).grade("a x") == -0.5  # policy scores one fault 1/2
    assert await grader(NO_X, NO_Y, weights=(3, 1)).grade("a x") == pytest.approx((3 * -0.5 + 1) / 4)


async def test_a_text_is_judged_once_and_with_what_was_begun() -> None:
    graded = grader(NO_X, begun="x ")
    assert [await graded.grade("a"), await graded.grade("a"), await graded.grade("b")] == [-0.5] * 3
    assert (graded.asked, graded.known) == (2, 1)


async def test_a_text_without_a_word_is_the_worst() -> None:
    graded = grader(NO_X)
    assert (await graded.grade(" \n"), graded.asked) == (-1, 0)


@pytest.mark.parametrize("weights", [(1.0,), (0.0, 0.0)])
def test_weights_fit_the_verifiers(weights: tuple[float, ...]) -> None:
    with pytest.raises(RequestError, match="weights") as caught:
        grader(NO_X, NO_Y, weights=weights)
    assert caught.value.param == "p"
