"""Which token writes an option: by ids, and among the texts that a chat API reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from heedful.strategies import Continuation, EngineError, Extension
from heedful.strategies.options import begins_word, is_letter, next_token, reported, tokens_of
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel


class Pieces(ScriptedEngine):
    """A tokeniser that puts a space before every text, as SentencePiece does, and takes the first piece that fits."""

    pieces = (" Yes", " No", " A", " (", "(A", "Yes", "No", "A", "B", "(", ":", " ")

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        left, ids = " " + text if text else "", []
        while left:
            piece = next(p for p in self.pieces if left.startswith(p))
            ids.append(self.pieces.index(piece))
            left = left[len(piece) :]
        return ids


@pytest.mark.parametrize(
    ("after", "options", "written"),
    [
        (None, ["Yes", "No", "B"], [[" Yes"], [" No"], [" ", "B"]]),
        ("(", ["A", "B"], [["A"], ["B"]]),  # without the space that both would have alone
        (":", ["Yes", " Yes"], [["Yes"], [" Yes"]]),
        ("((", ["A", "B"], [[" A"], ["B"]]),  # "(A" is one token there, so that A is written alone
        ("", ["Yes", ""], [[" Yes"], []]),
    ],
)
async def test_tokens_are_those_of_the_place(
    after: str | None, options: Sequence[str], written: list[list[str]]
) -> None:
    found = await tokens_of(Pieces(), options, after)
    assert [[Pieces.pieces[i] for i in ids] for ids in found] == written


async def test_one_step_says_how_likely_each_is() -> None:
    engine = ScriptedEngine(
        extend=ScriptedModel(lambda _: {ord("h"): 0.5, ord("n"): 0.25, ord("y"): 0.125, 0: 0.1})
    )
    step = await next_token(engine, b"Is it?", b"yny")
    assert step.logprobs == pytest.approx([math.log(p) for p in (0.125, 0.25, 0.125)])
    assert step.text == "h"
    (asked,) = engine.extensions
    assert (asked.max_tokens, asked.temperature, tuple(asked.logprob_token_ids)) == (1, 0, tuple(b"yn"))


@pytest.mark.parametrize("steps", [(), ({ord("y"): -1.0},)])
async def test_an_engine_that_leaves_an_option_out_has_failed(steps: tuple[dict[int, float], ...]) -> None:
    def extend(extension: Extension) -> list[Continuation]:
        return [Continuation((0,), "", steps)]

    with pytest.raises(EngineError, match="no probabilities for the options"):
        await next_token(ScriptedEngine(extend=extend), b"Is it?", b"yn")


def test_every_way_to_write_a_word_is_found() -> None:
    top = [(" yes", -1.0), ("No", -2), ("Y", -3.0), ("", -0.1), (" ", -0.1), ("Yesterday", -0.5), ("n", None)]
    assert reported(top, ("Yes", "No", "Maybe"), begins_word) == [[-1.0, -3.0], [-2.0], []]


def test_a_letter_stands_alone() -> None:
    top = [("A", -1.0), (" A", -2.0), ("(A", -3.0), ("**A.", -4.0), ("a", -0.1), ("As", -0.1), ("B", "odd")]
    assert reported(top, "AB", is_letter) == [[-1.0, -2.0, -3.0, -4.0], []]
