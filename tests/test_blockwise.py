"""The strategy `blockwise`: what is drawn, what is kept, and what streams."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from heedful.strategies import (
    Answer,
    ChatRequest,
    Chunk,
    Continuation,
    Extension,
    Plan,
    RequestError,
    Resources,
    Run,
    collect,
)
from heedful.strategies.decode.blockwise import resampled
from heedful.strategies.decode.segments import entropy
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

NO_X: Any = {"policy": {"deny": ["x"]}}
LETTERS = {ord("a"): 0.8, ord("x"): 0.2}


def coin(tokens: Sequence[int]) -> Mapping[int, float]:
    """Writes a and x by chance, 24 letters in all."""
    written = bytes(tokens).decode().rpartition("<assistant>")[2]
    return LETTERS if len(written) < 24 else {0: 1.0}


def plan(resources: Resources, **options: Any) -> Plan:
    return Plan.of("b", [("blockwise", {"verifiers": [NO_X], "n": 16, "tokens": 4, **options})], resources)


def asked(**params: Any) -> ChatRequest:
    return ChatRequest("scripted", ({"role": "user", "content": "Hi"},), {"seed": 1, **params}, True)


async def answered(
    resources: Resources, engine: ScriptedEngine | None = None, params: Any = None, **options: Any
) -> tuple[Answer, Run]:
    run = Run(engine or ScriptedEngine(extend=ScriptedModel(coin)), resources)
    return await collect(plan(resources, **options).stream(asked(**(params or {})), run)), run


def notes(run: Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    *segments, whole = run.trace.steps
    return segments, whole


@pytest.mark.parametrize("keep", ["best", "first"])
async def test_each_segment_is_chosen_and_streams(keep: str, resources: Resources) -> None:
    run = Run(ScriptedEngine(extend=ScriptedModel(coin)), resources)
    events = [e async for e in plan(resources, keep=keep).stream(asked(), run)]
    pieces = [text for e in events if isinstance(e, Chunk) and (text := e.text())]
    assert pieces == ["aaaa"] * 6
    segments, whole = notes(run)
    assert [s["at"] for s in segments] == [0, 4, 8, 12, 16, 20, 24]
    assert all(s["candidates"][s["kept"]]["passed"] for s in segments)
    assert whole["tokens"] == 25 and whole["drafted"] == run.ledger.spent.completion_tokens


async def test_the_first_that_passes_costs_no_more_than_one(resources: Resources) -> None:
    never: Any = {"policy": {"words": ["zzz"]}}
    answer, run = await answered(resources, keep="first", verifiers=[never])
    assert len(answer.text) == 24 and notes(run)[1]["drafted"] == 25
    _, run = await answered(resources, keep="best", verifiers=[never])
    assert notes(run)[1]["drafted"] == 16 * 25


async def test_where_none_passes_the_best_goes_on(resources: Resources) -> None:
    answer, run = await answered(resources, verifiers=[{"policy": {"deny": ["x", "a"]}}], n=3)
    assert len(answer.text) == 24
    for segment in notes(run)[0]:
        scores = [c["score"] for c in segment["candidates"]]
        assert scores[segment["kept"]] == max(scores)


async def test_particles_end_with_the_best(resources: Resources) -> None:
    run = Run(ScriptedEngine(extend=ScriptedModel(coin)), resources)
    events = [e async for e in plan(resources, keep="resample", spread=0.1).stream(asked(), run)]
    pieces = [text for e in events if isinstance(e, Chunk) and (text := e.text())]
    assert "".join(pieces) == "a" * 24
    assert len(pieces) > 1  # what all share is out before the end
    assert all(len(s["candidates"]) == len(s["kept"]) == 16 for s in notes(run)[0])


def test_resampling_goes_by_the_odds() -> None:
    rng = random.Random(3)
    counts = [0, 0]
    for _ in range(400):
        for i in resampled([0.8, 0.2] * 4, 1.0, rng):
            counts[i % 2] += 1
    assert counts[0] / sum(counts) == pytest.approx(16 / 17, abs=0.02)  # 4 to 1 against 1 to 4
    assert resampled([0.5] * 5, 1.0, rng) == [0, 1, 2, 3, 4]
    assert set(resampled([0.1, 0.9, 0.3], 0.01, rng)) == {1}
    assert len(resampled([0.0, 1.0], 1.0, rng)) == 2


def test_entropy_in_nats() -> None:
    assert entropy({1: 0.0}) == 0
    assert entropy({i: math.log(1 / 8) for i in range(8)}) == pytest.approx(math.log(8))
    assert entropy({1: math.log(0.5)}) == pytest.approx(math.log(2))  # the rest as one token


async def test_an_uncertain_segment_ends_before_the_token_that_is_unsure(resources: Resources) -> None:
    """Every tenth letter may be any of ten; the others are sure."""

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        at = len(bytes(tokens).decode().rpartition("<assistant>")[2])
        if at == 35:
            return {0: 1.0}
        return {ord(c): 0.1 for c in "bcdefghijx"} if at % 10 == 0 else {ord("a"): 1.0}

    options = {"segment": "uncertain", "entropy": 2.0, "tokens": 64, "n": 8}
    answer, run = await answered(resources, ScriptedEngine(extend=ScriptedModel(step)), **options)
    segments, whole = notes(run)
    assert [s["at"] for s in segments] == [0, 10, 20, 30]
    assert answer.text[1:10] == "a" * 9 and len(answer.text) == 35 and "x" not in answer.text
    # What the kept one had beyond its segment's end was the next one's first candidate.
    assert whole["drafted"] < 8 * (16 + 16 + 16 + 6)
    _, run = await answered(resources, ScriptedEngine(extend=ScriptedModel(step)), **options | {"tokens": 5})
    assert [s["at"] for s in notes(run)[0]] == [0, 5, 10, 15, 20, 25, 30, 35]


async def test_what_a_client_may_ask(resources: Resources) -> None:
    answer, _ = await answered(resources, params={"n": 2, "max_tokens": 6, "logprobs": True})
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [
        (0, "aaaaaa", "length"),
        (1, "aaaaaa", "length"),
    ]
    assert all(len((c.logprobs or {})["content"]) == 6 for c in answer.choices)
    answer, run = await answered(resources, params={"temperature": 0})
    assert len(answer.text) == 24 and notes(run) == ([], run.trace.steps[-1])
    assert run.trace.steps[-1]["n"] == 1 and run.trace.steps[-1]["judged"] == 0
    answer, _ = await answered(resources, params={"stop": "aaaaa"})
    assert (answer.text, answer.choices[0].finish_reason) == ("", "stop")
    for field, value in (("presence_penalty", 1), ("tools", [{"type": "function"}])):
        with pytest.raises(RequestError, match=f"{field}: the alignment 'blockwise'"):
            await answered(resources, params={field: value})
    with pytest.raises(RequestError, match="at least one verifier"):
        plan(resources, verifiers=[])


async def test_thoughts_are_judged_until_something_is_said(resources: Resources) -> None:
    said = "<think>x x x</think>aaaa"

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        return {(said.encode() + b"\0")[len(bytes(tokens).decode().rpartition("<assistant>")[2])]: 1.0}

    answer, run = await answered(resources, ScriptedEngine(extend=ScriptedModel(step)))
    assert answer.text == said
    passed = [[c["passed"] for c in s["candidates"]] for s in notes(run)[0]]
    assert not any(passed[2]) and all(passed[-1])


async def test_thoughts_that_never_end_are_no_way_past_the_verifiers(resources: Resources) -> None:
    def coin_within_thoughts(tokens: Sequence[int]) -> Mapping[int, float]:
        written = bytes(tokens).decode().rpartition("<assistant>")[2]
        opening = b"<think>"
        return {opening[len(written)]: 1.0} if len(written) < len(opening) else coin(tokens)

    answer, _ = await answered(resources, ScriptedEngine(extend=ScriptedModel(coin_within_thoughts)))
    assert answer.text.startswith("<think>a") and "x" not in answer.text


async def test_an_answer_without_a_word_is_the_last_that_goes_out(resources: Resources) -> None:
    def extend(extension: Extension) -> list[Continuation]:
        bad = Continuation((ord("x"), 0), "x", (), "stop")
        return [Continuation((0,), "", (), "stop"), bad, Continuation((0,), "", (), "stop")]

    answer, _ = await answered(resources, ScriptedEngine(extend=extend), n=3)
    assert answer.text == "x"
