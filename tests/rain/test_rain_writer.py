"""Committed tokens become text once, piece by piece, and never more than a few of them are read again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.strategies.decode.rain.request import RainRequest
from heedful.strategies.decode.rain.tree import Draft
from heedful.strategies.decode.rain.writer import Writer
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel


class CountingEngine(ScriptedEngine):
    """Counts the tokens that it is asked to detokenise."""

    read = 0

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        self.read += len(token_ids)
        return await super().detokenize(token_ids)


class FallbackEngine(ScriptedEngine):
    """A tokenizer that spells what is not ASCII in bytes: a run of them is all replacements until it is whole."""

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        runs = [bytes(run) for _, run in groupby(token_ids, lambda token: token < 128)]
        whole = [run.decode(errors="replace") for run in runs]
        return "".join(
            "\ufffd" * len(run) if "\ufffd" in text else text for run, text in zip(runs, whole, strict=True)
        )


class WordsEngine(ScriptedEngine):
    """Tokens are words, 0 apart; a space stands before each but the first of what is detokenised."""

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return " ".join(f"w{t}" for t in token_ids)


async def written(
    engine: ScriptedEngine, tokens: Sequence[int], lengths: Sequence[int], stops: tuple[str, ...] = ()
) -> list[str]:
    """What a writer says to each of the sets that tokens are cut into; the last one ends the answer."""
    writer = Writer(engine, RainRequest((1,), len(tokens), stops), 0)
    said: list[str] = []
    at = number = 0
    while at < len(tokens):
        part = tuple(tokens[at : at + lengths[number % len(lengths)]])
        at, number = at + len(part), number + 1
        chunk = await writer.write(Draft(part, 1.0, end="length" if at == len(tokens) else None))
        said.append(chunk.text() if chunk else "")
    assert writer.tokens == list(tokens)
    return said


TEXT = st.text(st.sampled_from("ab é–木😀"), min_size=30, max_size=120)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=TEXT, lengths=LENGTHS)
def test_pieces_are_the_text_with_characters_cut_between_commits(text: str, lengths: list[int]) -> None:
    tokens = text.encode()
    said = asyncio.run(written(ScriptedEngine(), tokens, lengths))
    assert "".join(said) == text
    at = 0
    for i in range(len(said)):  # each says all whole characters that it can
        at += lengths[i % len(lengths)]
        assert "".join(said[: i + 1]) == tokens[:at].decode(errors="ignore")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=TEXT, lengths=LENGTHS)
def test_characters_spelt_in_bytes(text: str, lengths: list[int]) -> None:
    assert "".join(asyncio.run(written(FallbackEngine(), text.encode(), lengths))) == text


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    tokens=st.lists(st.sampled_from([*range(1, 256), 0x80, 0xC3, 0xE6, 0x9C, 0xF0, 0x9F]), max_size=200),
    lengths=LENGTHS,
)
def test_bytes_that_are_no_characters_are_said_as_the_whole_would_say_them(
    tokens: list[int], lengths: list[int]
) -> None:
    said = asyncio.run(written(ScriptedEngine(), tokens, lengths))
    assert "".join(said) == bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize("length", [1, 3, 10])
@pytest.mark.parametrize("byte", [b"\xff", b"\xe6", b"\xf0\x9f"])
async def test_a_character_after_many_bytes_that_make_none(byte: bytes, length: int) -> None:
    for n in range(110, 150):
        tokens = byte * n + "😀 木".encode()
        said = await written(ScriptedEngine(), tokens, [length])
        assert "".join(said) == tokens.decode(errors="replace")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    text=st.text(st.sampled_from("abé"), min_size=1, max_size=100),
    stops=st.lists(st.text(st.sampled_from("abé"), min_size=1, max_size=6), max_size=3),
    lengths=LENGTHS,
)
def test_stop_strings_cut_between_commits(text: str, stops: list[str], lengths: list[int]) -> None:
    tokens = text.encode()
    said = asyncio.run(written(ScriptedEngine(), tokens, lengths, tuple(stops)))
    at = number = 0
    whole, found = "", list[int]()
    while at < len(tokens) and not found:  # the first set by which a stop string is whole
        at, number = at + lengths[number % len(lengths)], number + 1
        whole = tokens[:at].decode(errors="ignore")
        found = [whole.find(s) for s in stops if s in whole]
    assert "".join(said) == (whole[: min(found)] if found else text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(tokens=st.lists(st.integers(1, 2000), min_size=1, max_size=200), lengths=LENGTHS)
def test_spaces_that_hang_on_the_token_before(tokens: list[int], lengths: list[int]) -> None:
    engine = WordsEngine()
    said = asyncio.run(written(engine, tokens, lengths))
    assert "".join(said) == asyncio.run(engine.detokenize(tokens))


@pytest.mark.parametrize(
    ("tokens", "length", "times"),
    [
        # Each set is read with a window of 16 to 36 tokens before it, and each token once more in the next window.
        (b"a" * 2000, 1, 30),
        (b"a" * 2000, 10, 5),
        ("木".encode() * 667, 10, 7),
        (b"\xe6" * 2000, 1, 80),  # makes no character: windows of 128
        (b"\xe6" * 2000, 10, 9),
    ],
)
async def test_each_token_is_read_a_few_times_however_long_the_answer(
    tokens: bytes, length: int, times: int
) -> None:
    engine = CountingEngine()
    await written(engine, tokens, [length])
    assert engine.read <= times * len(tokens)


@pytest.mark.parametrize("set_lengths", [(1, 2, 4, 10), (1,)])
async def test_a_search_reads_its_answer_once(lab: Any, set_lengths: tuple[int, ...]) -> None:
    """What is detokenised for an answer grows with its length, not with its square."""
    read = []
    for tokens in (50, 200):
        scripted: ScriptedModel = lab.model(7, lab.always, ending=0)
        engine = CountingEngine(extend=scripted)
        options = {"set_lengths": set_lengths, "min_visits": 0, "similarity": False, "children": 2}
        answer, _ = await lab.answered(engine, options, max_tokens=tokens)
        assert len(answer.text) == tokens
        read.append(engine.read)
    assert read[1] < 5.5 * read[0]  # four times the tokens
