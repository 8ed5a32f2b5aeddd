"""Scripted language models that write, and judge what they wrote, for the tests of RAIN."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from heedful.prompts import Prompts
from heedful.retrieval.embedding.scripted import ScriptedEmbedder
from heedful.retrieval.store.stores import Stores
from heedful.strategies import Answer, ChatRequest, Plan, Resources, Run, collect
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

Judge = Callable[[str], tuple[bool, bool]]
"""For an answer: is the good option taken when it is (A), and when it is (B)."""

ALPHABET = b"abcd ,.e"
_ASKED = b"answer is: ("
PROMPTS = Prompts()


def number(*parts: object) -> int:
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest())


def model(seed: int, judge: Judge, letters: bytes = ALPHABET, ending: float = 0.05) -> ScriptedModel:
    """A random language model: what follows depends on the last three tokens and on the seed."""

    @cache
    def written(last: tuple[int, ...]) -> Mapping[int, float]:
        rng = random.Random(number(seed, last))
        weights = {c: rng.random() ** 3 for c in letters}
        return {**weights, 0: ending * rng.random()} if ending else weights

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        if bytes(tokens[-len(_ASKED) :]) == _ASKED:
            return judged(bytes(tokens).decode(errors="replace"), judge)
        return written(tuple(tokens[-3:]))

    return ScriptedModel(step)


def judged(text: str, judge: Judge) -> Mapping[int, float]:
    """Probabilities of A and B after a judging prompt."""
    answer, _, options = text.rpartition("Assistant:\n")[2].rpartition("\n(A) ")
    good_first = not any(
        word in options.split("\n")[0] for word in ("harmful", "untruthful", "breaks", "bad")
    )
    taken = judge(answer)[0 if good_first else 1]
    a = taken == good_first
    return {ord("A"): 0.7 if a else 0.2, ord("B"): 0.2 if a else 0.7}


def always(_: str) -> tuple[bool, bool]:
    return True, True


def never(_: str) -> tuple[bool, bool]:
    return False, False


def undecided(_: str) -> tuple[bool, bool]:
    return True, False  # always "A"


def by_chance(seed: int, good: float) -> Judge:
    def judge(text: str) -> tuple[bool, bool]:
        rng = random.Random(number("judge", seed, text))
        return rng.random() < good, rng.random() < good

    return judge


def letters(text: str) -> list[float]:
    """An embedding: how often each letter occurs."""
    return [text.count(c) + 0.1 for c in ALPHABET.decode()]


RESOURCES = Resources(PROMPTS, Stores(Path("none"), ScriptedEmbedder(letters)))


async def answered(
    scripted: ScriptedModel | ScriptedEngine,
    options: dict[str, Any] | None = None,
    resources: Resources = RESOURCES,
    contexts: tuple[tuple[str, dict[str, Any]], ...] = (),
    messages: Sequence[dict[str, Any]] = ({"role": "user", "content": "Hi"},),
    **params: Any,
) -> tuple[Answer, dict[str, Any]]:
    """The answer of one request, and its trace: the notes of all steps called rain, joined."""
    engine = scripted if isinstance(scripted, ScriptedEngine) else ScriptedEngine(extend=scripted)
    run = Run(engine, resources)
    plan = Plan.of("test", [*contexts, ("rain", options or {})], resources)
    request = ChatRequest("scripted", tuple(messages), {"max_tokens": 30, "seed": 1} | params)
    answer = await collect(plan.stream(request, run))
    notes: dict[str, Any] = {}
    for step in run.trace.steps:
        if step["step"] == "rain":
            notes |= step
    return answer, notes


def unknown_dropped(whole: list[dict[str, Any]], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reference's tree without what the fast mode had no need to find out: priors, and unvisited siblings."""
    return [
        {k: v for k, v in a.items() if k in b or k not in ("prior", "unvisited")}
        | ({"children": unknown_dropped(a["children"], b["children"])} if "children" in a else {})
        for a, b in zip(whole, known, strict=True)
    ]


class Lab:
    """What the tests of this folder share."""

    prompts = PROMPTS
    resources = RESOURCES
    model = staticmethod(model)
    judged = staticmethod(judged)
    answered = staticmethod(answered)
    always = staticmethod(always)
    never = staticmethod(never)
    undecided = staticmethod(undecided)
    by_chance = staticmethod(by_chance)
    unknown_dropped = staticmethod(unknown_dropped)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()
