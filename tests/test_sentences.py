"""Sentences: found alike in a whole text and in one that comes in pieces, and nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heedful.strategies.sentences import Splitter, split

TEXTS = st.text("ab1. !?\n\"')。", max_size=60)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One is here. Two is there! Three", ["One is here.", " Two is there!", " Three"]),
        ('He said "Stop." Then left.', ['He said "Stop."', " Then left."]),
        ("Pi is 3.14 or so. Yes sir.", ["Pi is 3.14 or so.", " Yes sir."]),
        ("1. Mix it\n2. Bake it\n", ["1. Mix it\n", "2. Bake it\n"]),
        ("这是第一句。这是第二句。", ["这是第一句。", "这是第二句。"]),
        ("", []),
    ],
)
def test_splits(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


@given(TEXTS)
def test_nothing_is_lost(text: str) -> None:
    assert "".join(split(text)) == text


@given(TEXTS, st.integers(1, 5))
def test_pieces_lose_nothing_either(text: str, size: int) -> None:
    splitter = Splitter()
    found = [s for i in range(0, len(text), size) for s in splitter.feed(text[i : i + size])]
    assert "".join(found + splitter.rest()) == text


def test_a_sentence_comes_as_soon_as_it_is_whole() -> None:
    splitter = Splitter()
    fed = [splitter.feed(piece) for piece in ("This is", " one.", " And", " two. ")]
    assert fed == [[], [], ["This is one."], [" And two."]]


@pytest.mark.parametrize(
    "pieces", [["So far.", " More of it."], ["So ", "far. More of it."], ["More of it."]]
)
def test_a_repeated_beginning_is_left_out(pieces: list[str]) -> None:
    splitter = Splitter(echo="So far.")
    found = [s for piece in pieces for s in splitter.feed(piece)] + splitter.rest()
    assert "".join(found).strip() == "More of it."
