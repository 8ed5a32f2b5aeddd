"""What a client may ask of RAIN, and what it gets: streams, choices, stop strings, conversations, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heedful.prompts import Prompts
from heedful.strategies import (
    Capability,
    ChatRequest,
    Chunk,
    Context,
    Event,
    Extension,
    Finish,
    MissingCapability,
    Plan,
    RequestError,
    Resources,
    Run,
    collect,
)
from heedful.strategies.decode.rain import Rain
from heedful.strategies.scripted import ALL, ScriptedEngine

# -- what a client may ask


async def streamed(
    lab: Any, engine: ScriptedEngine, options: dict[str, Any] | None = None, **params: Any
) -> list[Event]:
    plan = Plan.of("test", [("rain", options or {})], lab.resources)
    request = ChatRequest(
        "scripted", ({"role": "user", "content": "Hi"},), {"max_tokens": 30, "seed": 1} | params, True
    )
    return [event async for event in plan.stream(request, Run(engine, lab.resources))]


async def test_streams_sets_as_they_are_committed(lab: Any) -> None:
    scripted = lab.model(7, lab.always, ending=0)
    events = await streamed(lab, ScriptedEngine(extend=scripted))
    texts = [e.text() for e in events if isinstance(e, Chunk)]
    assert [len(t) for t in texts] == [1, 2, 4, 10, 10, 3, 0]
    whole, _ = await lab.answered(scripted)
    assert "".join(texts) == whole.text
    assert isinstance(events[-1], Finish)
    chunk = events[-2]
    assert isinstance(chunk, Chunk) and chunk.choices[0]["finish_reason"] == "length"


async def test_usage_counts_every_hidden_call(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(7, lab.always))
    run = Run(engine, lab.resources)
    plan = Plan.of("test", [("rain", {})], lab.resources)
    request = ChatRequest("scripted", ({"role": "user", "content": "Hi"},), {"max_tokens": 8, "seed": 1})
    answer = await collect(plan.stream(request, run))
    assert run.ledger.calls == len(engine.extensions) > 10
    assert answer.usage.completion_tokens == run.ledger.stages["rain"].completion_tokens
    notes = {k: v for step in run.trace.steps for k, v in step.items()}
    assert notes["drafted"] == answer.usage.completion_tokens


async def test_stop_strings_end_the_answer_and_never_show(lab: Any) -> None:
    plain, _ = await lab.answered(lab.model(7, lab.always, ending=0), max_tokens=40)
    stop = plain.text[11:15]  # lies across two sets
    for stops in (stop, [stop, "zzz"]):
        answer, _ = await lab.answered(lab.model(7, lab.always, ending=0), max_tokens=40, stop=stops)
        assert stop not in answer.text
        assert answer.choices[0].finish_reason == "stop"
        events = await streamed(
            lab, ScriptedEngine(extend=lab.model(7, lab.always, ending=0)), max_tokens=40, stop=stops
        )
        assert "".join(e.text() for e in events if isinstance(e, Chunk)) == answer.text


async def test_several_choices(lab: Any) -> None:
    scripted = lab.model(13, lab.by_chance(2, 0.7), ending=0)
    answer, _ = await lab.answered(scripted, n=3, seed=4)
    alone = [(await lab.answered(scripted, seed=4 + i))[0].text for i in range(3)]
    assert [c.text for c in answer.choices] == alone
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len(set(alone)) > 1


async def test_log_probabilities_of_the_committed_tokens(lab: Any) -> None:
    scripted = lab.model(13, lab.always, ending=0)
    answer, _ = await lab.answered(scripted, logprobs=True, top_logprobs=2, max_tokens=9)
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs["content"]
    assert "".join(t["token"] for t in content) == answer.text
    prompt = list(b"<user>Hi\n<assistant>")
    (drawn,) = scripted(
        Extension([*prompt, *answer.text[:-1].encode()], max_tokens=1, temperature=0, logprobs=20)
    )
    last = content[-1]
    assert last["logprob"] == pytest.approx(drawn.logprobs[0][ord(answer.text[-1])])
    assert len(last["top_logprobs"]) == 2
    assert last["top_logprobs"][0]["logprob"] >= last["top_logprobs"][1]["logprob"]
    assert last["bytes"] == list(last["token"].encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("response_format", {"type": "json_object"}),
        ("structured_outputs", {"regex": "a"}),
        ("logit_bias", {"5": 1}),
        ("n", 0),
        ("max_tokens", "many"),
        ("top_logprobs", 21),
    ],
)
async def test_refuses_what_it_cannot_honour(lab: Any, field: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        await lab.answered(lab.model(1, lab.always), **{field: value})
    assert (caught.value.status, caught.value.param) == (400, field)


async def test_refuses_images_and_overlong_prompts(lab: Any) -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    with pytest.raises(RequestError, match="text only"):
        await lab.answered(lab.model(1, lab.always), messages=[image])
    engine = ScriptedEngine(extend=lab.model(1, lab.always), context_length=2000)
    answer, _ = await lab.answered(engine, max_tokens=4)
    assert len(answer.text) <= 4
    with pytest.raises(RequestError, match="self-evaluation") as caught:
        await lab.answered(engine, messages=[{"role": "user", "content": "long " * 200}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(RequestError, match="maximum context length is 2000 tokens"):
        await lab.answered(engine, messages=[{"role": "user", "content": "long " * 500}])


def test_needs_the_token_level(lab: Any) -> None:
    plan = Plan.of("test", [("rain", {})], lab.resources)
    with pytest.raises(MissingCapability, match="tokens"):
        plan.check(ALL & ~Capability.TOKENS, model="black box")


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"task": "harmlessness", "rule": "Be brief."}, "alignment.rain.rule"),
        ({"task": "nosuch"}, "alignment.rain.task"),
        ({"children": 0}, "alignment.rain.children"),
        ({"effort": "heroic"}, "alignment.rain.effort"),
        ({"set_lengths": []}, "alignment.rain.set_lengths"),
    ],
)
def test_refuses_bad_options(lab: Any, options: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        Plan.of("test", [("rain", options)], lab.resources)
    assert caught.value.param == param


def test_similarity_needs_an_embedder(lab: Any) -> None:
    with pytest.raises(RequestError, match="similarity: false"):
        Plan.of("test", [("rain", {})], Resources(lab.prompts))
    Plan.of("test", [("rain", {"similarity": False})], Resources(lab.prompts))


def test_every_published_constant_is_an_option() -> None:
    rain = Rain()
    assert (rain.threshold, rain.rule_to_stop.min_visits, rain.rule_to_stop.max_iterations) == (0.8, 6, 50)
    assert (
        Rain(effort="low").rule_to_stop.max_iterations < 50 < Rain(effort="high").rule_to_stop.max_iterations
    )
    given = Rain(effort="low", min_visits=6, max_iterations=50, extra_iterations=15)
    assert given.rule_to_stop == replace(rain.rule_to_stop)
    assert (Rain(effort="low").gated, rain.gated, Rain(effort="low", gate=False).gated) == (
        True,
        False,
        False,
    )


# -- conversations


async def test_multi_turn_chats_are_judged_whole(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(1, lab.always))
    talk = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
    ]
    await lab.answered(engine, messages=talk, max_tokens=3)
    (text,) = {
        bytes(e.token_ids).decode().rpartition("\n\n")[2].rpartition("Assistant:\n")[0]
        for e in engine.extensions
        if e.logprob_token_ids
    }
    assert text == "Human: One?\nAssistant: Two.\nHuman: Three?\n"
    drafts = next(e for e in engine.extensions if e.logprobs)
    assert bytes(drafts.token_ids).decode().startswith("<system>Be kind.\n<user>One?")


async def test_continues_what_the_client_has_begun(lab: Any) -> None:
    engine = ScriptedEngine(extend=lab.model(1, lab.always))
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    await lab.answered(engine, messages=talk, max_tokens=3, continue_final_message=True)
    drafts = next(e for e in engine.extensions if e.logprobs)
    assert bytes(drafts.token_ids).decode().endswith("<assistant>Well")
    asked = next(e for e in engine.extensions if e.logprob_token_ids)
    assert "Human: Hi\nAssistant:\nWell" in bytes(asked.token_ids).decode()
    with pytest.raises(RequestError, match="last message"):
        await lab.answered(engine, messages=talk)


async def test_raw_prompts_for_base_models(lab: Any) -> None:
    engine = ScriptedEngine(
        extend=lab.model(1, lab.always), capabilities=Capability.TOKENS | Capability.COMPLETION
    )
    await lab.answered(engine, contexts=(("urial", {"form": "raw"}),), max_tokens=3)
    drafts = next(e for e in engine.extensions if e.logprobs)
    assert bytes(drafts.token_ids).decode().endswith("# Query:\n```\nHi\n```\n\n# Answer:\n```\n")
    assert drafts.repetition_penalty == 1.1
    sampled = next(e for e in engine.extensions if e.n > 1)
    assert "# Query" in sampled.stop
    asked = next(e for e in engine.extensions if e.logprob_token_ids)
    assert "# Query" not in bytes(asked.token_ids).decode()  # the client's own conversation is judged


# -- what is judged


async def judging_prompt(lab: Any, options: dict[str, Any], norms: tuple[str, ...] = ()) -> str:
    engine = ScriptedEngine(extend=lab.model(1, lab.always))
    context = replace(
        Context.of(ChatRequest("m", ({"role": "user", "content": "Hi"},), {"max_tokens": 2})), norms=norms
    )
    async for _ in Rain(**options).ready(lab.resources).stream(context, Run(engine, lab.resources)):
        pass
    return bytes(next(e for e in engine.extensions if e.logprob_token_ids).token_ids).decode()


async def test_tasks_rules_and_pairs(lab: Any) -> None:
    assert "(A) harmless\n" in await judging_prompt(lab, {})
    assert "(A) truthful\n" in await judging_prompt(lab, {"task": "truthfulness"})
    rule = await judging_prompt(lab, {"rule": "Answer in rhyme."})
    assert "Rules:\n- Answer in rhyme.\nHuman: Hi" in rule
    assert "(A) follows the rules\n" in rule
    pair = await judging_prompt(lab, {"pair": ("It is polite.", "It is bad.")})
    assert pair.endswith("(A) It is polite.\n(B) It is bad.\nThe answer is: (")


def test_a_task_of_ones_own_is_checked_when_configured(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "rain").mkdir()
    (tmp_path / "rain" / "brevity.v1.md").write_text("Is it short?")
    resources = Resources(Prompts(tmp_path), lab.resources.stores)
    with pytest.raises(RequestError, match="lacks bad, good, head, tail"):
        Plan.of("test", [("rain", {"task": "brevity"})], resources)


async def test_the_norms_of_context_strategies_are_judged_by(lab: Any) -> None:
    norms = ("Name no prices.", "Answer in French.")
    prompt = await judging_prompt(lab, {}, norms)
    assert "Rules:\n- Name no prices.\n- Answer in French.\nHuman: Hi" in prompt
    assert "Name no prices." not in await judging_prompt(lab, {"task": "truthfulness"}, norms)


async def test_retrieved_norms_are_told_and_judged_by(lab: Any, resources: Resources) -> None:
    """`norms+rain` with the starter store: the same rules stand before the answer and before the judge."""
    engine = ScriptedEngine(extend=lab.model(1, lab.always))
    question = {"role": "user", "content": "May I share a photo of my neighbour online?"}
    _, _ = await lab.answered(engine, {}, resources, (("norms", {}),), [question], max_tokens=2)
    asked = next(bytes(e.token_ids).decode() for e in engine.extensions if e.logprob_token_ids)
    rules = asked.rpartition("Rules:\n- ")[2].partition("\nHuman:")[0].split("\n- ")
    prompt = bytes(next(e for e in engine.extensions if e.logprobs).token_ids).decode()
    assert rules and all(rule in prompt for rule in rules)
