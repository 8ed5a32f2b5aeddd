"""What nodes are continued with: probabilities, seeds, ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from heedful.strategies import Chunk
from heedful.strategies.decode.rain import tree
from heedful.strategies.decode.rain.drafts import Drafter, draw
from heedful.strategies.decode.rain.notes import Counts
from heedful.strategies.decode.rain.request import RainRequest
from heedful.strategies.decode.rain.tree import Constants, Draft, Node
from heedful.strategies.decode.rain.writer import Writer
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel


def fixed(tokens: Sequence[int]) -> Mapping[int, float]:
    return {ord("a"): 0.5, ord("b"): 0.3, ord("c"): 0.2}


def drafter(constants: Constants, *, limit: int = 30, batched: bool = True, **request: Any) -> Drafter:
    engine = ScriptedEngine(extend=ScriptedModel(request.pop("step", fixed)))
    return Drafter(engine, RainRequest((1,), limit, **request), constants, 7, Counts(), batched)


async def expanded(by: Drafter, node: Node) -> list[Draft]:
    """All that a node is continued with, as the tree takes it."""
    tree.expand(node, [*await by.first(node), *await by.samples(node)], by.constants)
    return [child.draft for child in node.children or ()]


async def test_single_tokens_come_with_their_probabilities() -> None:
    drafts = await expanded(drafter(Constants()), Node())
    assert [(d.text, round(d.p, 6)) for d in drafts] == [("a", 0.5), ("b", 0.3), ("c", 0.2)]


@pytest.mark.parametrize("shown", [0, 3])
async def test_a_set_has_its_probability_under_the_cut_distribution(shown: int) -> None:
    """Of the two likeliest tokens a has 0.5 / 0.8 and b 0.3 / 0.8, however many the client wants to see."""
    constants = Constants(top_k=2, set_lengths=(2,))
    drafts = await expanded(drafter(constants, logprobs=bool(shown), top_logprobs=shown), Node())
    assert drafts[0].text == "aa"
    assert len({d.text for d in drafts}) == len(drafts) == 4  # duplicates are dropped
    for draft in drafts:
        assert draft.p == pytest.approx(0.625 ** draft.text.count("a") * 0.375 ** draft.text.count("b"))


async def test_temperature_flattens_the_samples() -> None:
    constants = Constants(top_k=2, set_lengths=(2,), temperature=2.0)
    warm = await expanded(drafter(constants), Node())
    a, b = 0.5**0.5, 0.3**0.5
    assert warm[0].p == pytest.approx((a / (a + b)) ** 2)


async def test_a_node_is_continued_the_same_however_it_is_asked() -> None:
    constants = Constants()
    node = Node(depth=3, path=(97, 98), text="ab")
    one = await expanded(drafter(constants), node)
    assert await expanded(drafter(constants, batched=False), node) == one
    assert await expanded(drafter(constants), Node(depth=3, path=(97, 97), text="aa")) != one
    first, second = [await drafter(constants).sample(node, i) for i in (1, 2)]
    assert first != second
    seeds = {
        draw(1, "expand", node),
        draw(2, "expand", node),
        draw(1, "add", node),
        draw(1, "expand", node, 1),
    }
    assert len(seeds) == 4
    assert all(0 <= seed < 2**53 for seed in seeds)


async def test_sets_end_at_an_end_token_a_stop_string_or_the_limit() -> None:
    def spelled(tokens: Sequence[int]) -> Mapping[int, float]:
        return {b"hello world\0"[len(tokens) - 1] if len(tokens) <= 12 else 0: 1.0}

    constants = Constants(set_lengths=(20,))
    (whole,) = await expanded(drafter(constants, step=spelled), Node())
    assert (whole.text, whole.tokens[-1], whole.end) == ("hello world", 0, "stop")
    (cut,) = await expanded(drafter(constants, step=spelled, stops=("o w",)), Node())
    assert (cut.text, cut.end) == ("hell", "stop")
    (short,) = await expanded(drafter(constants, step=spelled, limit=4), Node())
    assert (short.text, short.end) == ("hell", "length")
    node = Node(depth=1, path=tuple(b"hello"), text="hello")
    (across,) = await expanded(drafter(constants, step=spelled, stops=("lo w",)), node)
    assert across.end == "stop"


async def test_half_characters_wait_for_their_other_half() -> None:
    engine = ScriptedEngine()
    writer = Writer(engine, RainRequest((1,), 30), 0)
    pieces: list[Chunk | None] = []
    for byte in "né!".encode():
        (draft,) = await expanded(drafter(Constants(), step=lambda _, b=byte: {b: 1.0}), Node())
        pieces.append(await writer.write(draft))
    assert [p.text() if p else None for p in pieces] == ["n", None, "é", "!"]
