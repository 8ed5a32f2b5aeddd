"""RAIN's search over scripted language models: fast and reference mode, judges, budgets, traces."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heedful.strategies import (
    Continuation,
    Extension,
    RequestError,
)
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

# -- the same search


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**30),
    good=st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]),
    leaves=st.sampled_from([2, 3, 8, 32]),
    effort=st.sampled_from(["low", "medium"]),
    similarity=st.booleans(),
    soft=st.booleans(),
    alphabet=st.sampled_from([b"ab", b"abcd ,.e", b"a,b.c"]),
)
def test_fast_mode_commits_what_the_reference_commits(
    lab: Any, seed: int, good: float, leaves: int, effort: str, similarity: bool, soft: bool, alphabet: bytes
) -> None:
    options = {
        "effort": effort,
        "gate": False,
        "similarity": similarity,
        "soft": soft,
        "add_variance": 0.3,  # so that children are added often
        "no_opinion": "continue",
        "max_iterations": 12,
        "extra_iterations": 4,
    }
    scripted = lab.model(seed, lab.by_chance(seed, good), alphabet)

    async def both() -> None:
        fast, fast_notes = await lab.answered(scripted, options | {"parallel_leaves": leaves}, seed=seed)
        slow, slow_notes = await lab.answered(scripted, options | {"parallel_leaves": 1}, seed=seed)
        assert fast.text == slow.text
        assert fast.choices[0].finish_reason == slow.choices[0].finish_reason
        same = ("commits", "searches", "rewinds", "children_added", "committed_tokens")
        known = lab.unknown_dropped(slow_notes["commits"], fast_notes["commits"])
        assert {k: fast_notes[k] for k in same} == {k: slow_notes[k] for k in same} | {"commits": known}

    asyncio.run(both())


async def test_reference_mode_works_step_by_step(lab: Any) -> None:
    """One engine call at a time, every leaf expanded when it is evaluated."""
    most = 0

    async def watched(extension: Extension) -> list[Continuation]:
        nonlocal most
        most = max(most, engine.running)
        await asyncio.sleep(0)
        drawn: list[Continuation] = scripted(extension)
        return drawn

    scripted = lab.model(3, lab.always)
    engine = ScriptedEngine(extend=watched)
    _, notes = await lab.answered(engine, {"parallel_leaves": 1}, max_tokens=40)
    assert most == 1
    assert all(e.n == 1 for e in engine.extensions)
    assert notes["expansions"] >= notes["simulations"]
    most = 0
    _, fast = await lab.answered(engine, {}, max_tokens=40)
    assert most > 2
    assert fast["expansions"] < notes["expansions"]


def shown(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [n for node in nodes for n in (node, *shown(node.get("children", [])))]


async def test_expansion_draws_by_token_ids_on_one_prefix(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(3, lab.always, ending=0))
    await lab.answered(engine, max_tokens=37)
    prompt = list(b"<user>Hi\n<assistant>")
    drafts = [e for e in engine.extensions if e.logprobs]
    assert all(list(e.token_ids[: len(prompt)]) == prompt for e in drafts)
    samples = [e for e in drafts if e.n > 1]
    assert {(e.n, e.top_k, e.temperature, e.logprobs) for e in samples} == {(9, 15, 1.0, 15)}
    assert {e.max_tokens for e in samples} == {2, 4, 10}
    greedy = [e for e in drafts if e.temperature == 0 and e.max_tokens > 1]
    assert len(greedy) > len(samples)  # samples where one could be selected, not everywhere
    first = [e for e in drafts if e.max_tokens == 1]
    assert first[0].logprobs == 20
    judgements = [e for e in engine.extensions if e.logprob_token_ids]
    texts = [bytes(e.token_ids).decode() for e in judgements]
    heads = {t.partition("Human: Hi\nAssistant:\n")[0] for t in texts}
    assert len(heads) == 1  # one prefix for all judgements of the request


async def test_simulates_to_the_end_of_the_clause(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(5, lab.always, ending=0))
    await lab.answered(engine, max_tokens=30)
    simulations = [e for e in engine.extensions if e.top_k == 0 and e.temperature == 1]
    assert simulations
    assert {tuple(e.stop) for e in simulations} == {(",", ".", "?", ":", ";", "\n")}
    # A leaf that ends a clause is judged as it is.
    assert all(bytes(e.token_ids)[-1:] not in (b",", b".") for e in simulations)
    judged_answers = {
        bytes(e.token_ids).decode().rpartition("Assistant:\n")[2].partition("\n(A)")[0]
        for e in engine.extensions
        if e.logprob_token_ids
    }
    assert all(a.endswith((",", ".")) or len(a) == 30 for a in judged_answers)
    assert any(a.endswith((",", ".")) for a in judged_answers)


async def test_a_finished_answer_is_scored_once(lab: Any) -> None:
    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        text = bytes(tokens).decode(errors="replace")
        if text.endswith("answer is: ("):
            letters: Mapping[int, float] = lab.judged(text, lab.always)
            return letters
        return {b"abc\0"[len(text.rpartition("<assistant>")[2])]: 1.0}

    _, notes = await lab.answered(ScriptedModel(step), {"parallel_leaves": 1})
    # The end is reached again and again.
    assert 0 < notes["judgements"] + notes["judgements_cached"] < notes["searches"]


async def test_the_same_seed_gives_the_same_answer(lab: Any) -> None:
    scripted = lab.model(11, lab.by_chance(1, 0.8))
    one, _ = await lab.answered(scripted, seed=5)
    two, _ = await lab.answered(scripted, seed=5)
    others = {(await lab.answered(scripted, seed=s))[0].text for s in range(6, 12)}
    assert one.text == two.text
    assert len(others) > 1
    _, notes = await lab.answered(scripted, {"seed": 9}, seed=None)
    assert notes["seed"] == 9


async def test_searches_for_the_answer_that_the_judge_likes(lab: Any) -> None:
    """Greedy decoding says "no"; the judge wants a "y"."""

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        text = bytes(tokens).decode(errors="replace")
        if text.endswith("answer is: ("):
            letters: Mapping[int, float] = lab.judged(text, lambda answer: (answer.startswith("y"),) * 2)
            return letters
        answer = text.rpartition("<assistant>")[2]
        if not answer:
            return {ord("n"): 0.8, ord("y"): 0.2}
        return {ord("o" if answer[0] == "n" else "s"): 0.9, 0: 0.1} if len(answer) < 2 else {0: 1.0}

    answer, notes = await lab.answered(ScriptedModel(step), {"similarity": False})
    assert answer.text == "ys"
    assert answer.choices[0].finish_reason == "stop"
    assert notes["rewinds"] > 0
    first = notes["commits"][0]["children"]
    assert [(c["text"], c.get("committed", False)) for c in first] == [("y", True), ("n", False)]
    assert first[1]["value"] == -1


# -- judges and budgets


async def test_a_judge_without_an_opinion_is_an_error(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(2, lab.undecided))
    with pytest.raises(RequestError, match="no opinion") as caught:
        await lab.answered(engine, {"opinion_after": 4})
    assert caught.value.code == "judge_without_opinion"
    assert engine.running == 0
    assert sum(bool(e.logprob_token_ids) for e in engine.extensions) <= 2 * (4 + 8)


async def test_a_judge_without_an_opinion_falls_back(lab: Any) -> None:
    scripted = lab.model(2, lab.undecided)
    answer, notes = await lab.answered(scripted, {"no_opinion": "decode"}, temperature=0)
    plain = scripted(Extension(list(b"<user>Hi\n<assistant>"), max_tokens=30, temperature=0))[0]
    assert answer.text == plain.text
    assert notes["no_opinion"] == "fell back to plain decoding"
    answer, notes = await lab.answered(
        scripted, {"no_opinion": "continue", "max_iterations": 10}, max_tokens=4
    )
    assert notes["no_opinion"] == "went on"
    assert notes["commits"]
    _, notes = await lab.answered(lab.model(2, lab.by_chance(1, 0.9)))
    assert "no_opinion" not in notes


async def test_soft_values(lab: Any) -> None:
    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        text = bytes(tokens).decode(errors="replace")
        if text.endswith("answer is: ("):
            good_first = "harmless" in text.rpartition("\n(A) ")[2].split("\n")[0]
            return {ord("A"): 0.6, ord("B"): 0.2} if good_first else {ord("A"): 0.5, ord("B"): 0.3}
        return {ord("a"): 1.0}

    _, notes = await lab.answered(ScriptedModel(step), {"soft": True}, max_tokens=1)
    # p(good): 0.6 / 0.8 and 0.3 / 0.8; their mean on [-1, 1]
    assert notes["commits"][0]["children"][0]["value"] == pytest.approx(2 * (0.75 + 0.375) / 2 - 1)


async def test_the_gate_returns_a_draft_that_passes(lab: Any) -> None:
    good = lab.model(2, lab.always)
    answer, notes = await lab.answered(good, {"effort": "low"}, temperature=0)
    plain = good(Extension(list(b"<user>Hi\n<assistant>"), max_tokens=30, temperature=0))[0]
    assert (answer.text, notes["outcome"]) == (plain.text, "the plain draft passed")
    assert notes["calls"] == 3  # the draft and two orders
    answer, notes = await lab.answered(lab.model(2, lab.never), {"effort": "low"})
    assert notes["gate"]["value"] == -1
    assert notes["outcome"] == "searched"


async def test_a_token_budget_ends_gracefully(lab: Any) -> None:
    scripted = lab.model(2, lab.by_chance(1, 0.5), ending=0)
    answer, notes = await lab.answered(scripted, {"max_drafted_tokens": 400}, max_tokens=60)
    assert notes["outcome"] == "the budget max_drafted_tokens was spent"
    assert 0 < len(answer.text) < 60
    assert answer.choices[0].finish_reason == "length"
    assert 400 <= notes["drafted"] < 1500
    answer, _ = await lab.answered(
        scripted, {"max_drafted_tokens": 400, "when_spent": "decode"}, max_tokens=60
    )
    assert len(answer.text) == 60


async def test_a_time_budget_ends_gracefully_and_aborts_the_rest(lab: Any) -> None:
    scripted = lab.model(2, lab.always, ending=0)

    async def stuck(extension: Extension) -> list[Continuation]:
        if len(engine.extensions) > 30:
            await asyncio.get_running_loop().create_future()
        drawn: list[Continuation] = scripted(extension)
        return drawn

    engine = ScriptedEngine(extend=stuck)
    answer, notes = await lab.answered(engine, {"max_seconds": 0.5}, max_tokens=60)
    assert notes["outcome"] == "the budget max_seconds was spent"
    assert answer.text
    assert engine.running == 0 and engine.aborted > 0


async def test_a_draft_that_takes_too_long_is_given_up(lab: Any) -> None:
    async def stuck(extension: Extension) -> list[Continuation]:
        await asyncio.get_running_loop().create_future()
        return []

    engine = ScriptedEngine(extend=stuck)
    answer, notes = await lab.answered(engine, {"effort": "low", "max_seconds": 0.2})
    assert (answer.text, answer.choices[0].finish_reason) == ("", "length")
    assert notes["outcome"] == "the budget max_seconds was spent"
    assert engine.running == 0


async def test_nothing_of_the_search_runs_on_beside_a_fall_back(lab: Any) -> None:
    scripted = lab.model(2, lab.undecided, ending=0)
    beside: list[int] = []

    async def watched(extension: Extension) -> list[Continuation]:
        if extension.logprobs is None and not extension.logprob_token_ids and extension.max_tokens > 9:
            beside.append(engine.running)
        await asyncio.sleep(0)
        drawn: list[Continuation] = scripted(extension)
        return drawn

    engine = ScriptedEngine(extend=watched)
    options = {"no_opinion": "decode", "max_simulation": 9}
    answer, _ = await lab.answered(engine, options, max_tokens=60)
    assert len(answer.text) == 60
    assert beside == [1, 1]  # two pieces of 32 tokens at most, each alone


async def test_the_trace_is_bounded(lab: Any) -> None:
    scripted = lab.model(2, lab.by_chance(1, 0.6), ending=0)
    _, whole = await lab.answered(scripted, {"trace_nodes": 10_000}, max_tokens=20)
    _, cut = await lab.answered(scripted, {"trace_nodes": 5}, max_tokens=20)
    nodes = sum(len(shown(c["children"])) for c in whole["commits"])
    assert sum(len(shown(c["children"])) for c in cut["commits"]) == 5
    assert cut["nodes_left_out"] > 0
    assert nodes > 20
    assert (
        "".join(c["text"] for c in whole["commits"]) == (await lab.answered(scripted, max_tokens=20))[0].text
    )
    searches = [c["searches"] for c in whole["commits"]]
    assert sum(searches) == whole["searches"]
