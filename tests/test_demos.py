"""The strategy `demos`: which demonstrations, in which order and form, and never at the conversation's cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heedful.prompts import Prompts
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.strategies import Call, Capability, ChatRequest, Plan, RequestError, Resources, Run, collect
from heedful.strategies.scripted import ALL, ScriptedEngine

BASE = ALL & ~(Capability.CHAT | Capability.PREFILL)


def _demo(prompt: str, answer: str, **more: Any) -> Item:
    return Item(prompt, kind="demo", answer=answer, **more)


@pytest.fixture
def shelf(tmp_path: Path, prompts: Prompts) -> Iterator[Resources]:
    stores = Stores(tmp_path, word_embedder(dimension=256))
    store, _ = stores.create("demos")
    store.add(
        [
            _demo("how to bake bread", "Knead.", id="bread"),
            _demo("how to bake a cake", "Whisk.", id="cake", tags=("sweet",)),
            _demo("who rules Norway", "A king.", id="king"),
            Item("bake bread with love", id="norm"),
        ]
    )
    yield Resources(prompts, stores)
    stores.close()


async def _ask(
    shelf: Resources,
    *messages: dict[str, Any] | str,
    capabilities: Capability = BASE,
    context_length: int | None = 100_000,
    params: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Call, dict[str, Any]]:
    engine = ScriptedEngine(capabilities=capabilities, context_length=context_length)
    turns = tuple({"role": "user", "content": m} if isinstance(m, str) else m for m in messages)
    run = Run(engine, shelf)
    plan = Plan.of("demos", [("demos", options)], shelf)
    await collect(plan.stream(ChatRequest("scripted", turns, params or {}), run))
    return engine.calls[-1], run.trace.steps[0]


async def test_the_papers_format_with_the_most_similar_last(shelf: Resources) -> None:
    call, trace = await _ask(shelf, "how to bake good bread")
    assert call.prompt == (
        "Question: who rules Norway\n\nHere’s an example answer: A king.\n\n"
        "Question: how to bake a cake\n\nHere’s an example answer: Whisk.\n\n"
        "Question: how to bake bread\n\nHere’s an example answer: Knead.\n\n"
        "Question: how to bake good bread\n\nHere’s an example answer:"
    )
    assert call.params["stop"] == ["\nQuestion:"]
    assert (call.params["temperature"], call.params["max_tokens"]) == (0.7, 1000)
    scores = [entry["score"] for entry in trace["used"]]
    assert scores == sorted(scores, reverse=True) and trace["used"][0]["id"] == "bread"
    assert trace["tokens"] == "exact"


async def test_what_the_client_sends_counts(shelf: Resources) -> None:
    call, _ = await _ask(shelf, "bake", params={"temperature": 0, "max_tokens": 7, "stop": "END"})
    assert (call.params["temperature"], call.params["max_tokens"]) == (0, 7)
    assert call.params["stop"] == ["END", "\nQuestion:"]


async def test_a_conversation_stays_whole_and_the_last_turn_is_searched_with(shelf: Resources) -> None:
    turns = [
        {"role": "system", "content": "You cook."},
        {"role": "user", "content": "who rules Norway"},
        {"role": "assistant", "content": "Harald."},
        {"role": "user", "content": "how to bake a cake"},
    ]
    call, trace = await _ask(shelf, *turns, k=1)
    assert call.prompt == (
        "You cook.\n\nQuestion: how to bake a cake\n\nHere’s an example answer: Whisk.\n\n"
        "Question: who rules Norway\n\nHere’s an example answer: Harald.\n\n"
        "Question: how to bake a cake\n\nHere’s an example answer:"
    )
    call, _ = await _ask(shelf, *turns, k=1, capabilities=ALL)
    demo = [{"role": "user", "content": "how to bake a cake"}, {"role": "assistant", "content": "Whisk."}]
    assert list(call.messages) == [turns[0], *demo, *turns[1:]]
    call, _ = await _ask(shelf, *turns, k=1, capabilities=ALL, place="last")
    assert list(call.messages) == [*turns[:3], *demo, turns[3]]


async def test_long_ones_are_passed_over_and_the_first_over_budget_ends_it(shelf: Resources) -> None:
    assert shelf.stores
    shelf.stores.get("demos").add([_demo("how to bake bread now", "word " * 200, id="long")])
    _, trace = await _ask(shelf, "how to bake bread", max_example_tokens=300)
    assert [d["reason"] for d in trace["dropped"]] == ["longer than max_example_tokens"]
    assert {u["id"] for u in trace["used"]} == {"bread", "cake", "king"}
    size = trace["used"][0]["tokens"]
    _, trace = await _ask(shelf, "how to bake bread", max_example_tokens=300, budget=size)
    assert [u["id"] for u in trace["used"]] == ["bread"]
    assert [d["reason"] for d in trace["dropped"] if d["id"] != "long"] == ["budget", "budget"]
    # What comes after the first that did not fit stays out, though it would fit.
    sizes = {u["id"]: u["tokens"] for u in (await _ask(shelf, "how to bake bread"))[1]["used"]}
    assert sizes["king"] < sizes["cake"]
    _, trace = await _ask(
        shelf, "how to bake bread", budget=sizes["bread"] + sizes["king"], max_example_tokens=300
    )
    assert [u["id"] for u in trace["used"]] == ["bread"]


@pytest.mark.parametrize("capabilities", [BASE, ALL])
@pytest.mark.parametrize("spare", [0, 60, 75, 10_000])
async def test_the_conversation_and_its_answer_come_first(
    shelf: Resources, capabilities: Capability, spare: int
) -> None:
    question = "how to bake bread " * 5
    empty, trace = await _ask(shelf, question, capabilities=capabilities, budget=0, params={"max_tokens": 50})
    assert trace["used"] == []
    alone = len((empty.prompt or "".join(f"<{m['role']}>{m['content']}\n" for m in empty.messages)).encode())
    length = alone + 50 + 30 + spare
    call, trace = await _ask(
        shelf, question, capabilities=capabilities, params={"max_tokens": 50}, context_length=length
    )
    text = call.prompt or "".join(f"<{m['role']}>{m['content']}\n" for m in call.messages)
    assert len(text.encode()) + 50 <= length
    if spare in (0, 10_000):
        assert len(trace["used"]) == (3 if spare else 0)
    assert len(trace["used"]) + len(trace["dropped"]) == 3


async def test_short_contexts_get_the_papers_smaller_budget(shelf: Resources) -> None:
    assert shelf.stores
    shelf.stores.get("demos").add([_demo(f"bake bread {i}", "word " * 70, id=f"b{i}") for i in range(12)])
    _, wide = await _ask(shelf, "bake bread", context_length=50_000)
    _, narrow = await _ask(shelf, "bake bread", context_length=4000, params={"max_tokens": 10})
    assert sum(u["tokens"] for u in wide["used"]) > 2000
    assert 500 < sum(u["tokens"] for u in narrow["used"]) <= 1000


async def test_variety_prefers_what_is_unlike_those_taken(shelf: Resources) -> None:
    assert shelf.stores
    shelf.stores.get("demos").add([_demo("how to bake bread fast", "Hurry.", id="twin")])
    _, plain = await _ask(shelf, "how to bake bread", k=4)
    assert [u["id"] for u in plain["used"]][:2] == ["bread", "twin"]
    _, varied = await _ask(shelf, "how to bake bread", k=4, diversity=0.7)
    assert [u["id"] for u in varied["used"]][:2] == ["bread", "king"]


async def test_tags_choose(shelf: Resources) -> None:
    _, trace = await _ask(shelf, "how to bake bread", tags=["sweet"])
    assert [u["id"] for u in trace["used"]] == ["cake"]


async def test_norms_and_demos_go_together_on_a_base_model(shelf: Resources) -> None:
    assert shelf.stores
    shelf.stores.create("norms")[0].add([Item("Bread is holy.")])
    plan = Plan.of("x", [("norms", {}), ("demos", {"k": 1})], shelf)
    engine = ScriptedEngine(capabilities=BASE)
    request = ChatRequest("scripted", ({"role": "user", "content": "bread"},))
    await collect(plan.stream(request, Run(engine, shelf)))
    prompt = engine.calls[0].prompt or ""
    assert (
        prompt.index("how to bake bread") < prompt.index("Bread is holy.") < prompt.index("Question:\nbread")
    )


async def test_two_raw_prompts_are_refused(shelf: Resources) -> None:
    plan = Plan.of("x", [("urial", {}), ("demos", {})], shelf)
    request = ChatRequest("scripted", ({"role": "user", "content": "x"},))
    with pytest.raises(RequestError, match="raw prompt already"):
        await collect(plan.stream(request, Run(ScriptedEngine(capabilities=BASE), shelf)))
