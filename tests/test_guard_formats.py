"""The verifier `guard` on what each family of guard models answers, of a question and of an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from openai import OpenAI

from heedful.strategies import Call, Capability, ChatRequest, Context, NoVerdict, Resources, Run, Verdict
from heedful.strategies.scripted import ScriptedEngine
from heedful.strategies.verifiers.registry import VERIFIERS

TURNS = ({"role": "user", "content": "How?"},)
CONTEXT = Context.of(ChatRequest("m", TURNS))
QUESTION = replace(CONTEXT, judged="question")


async def _judged(
    said: Any, resources: Resources, context: Context = CONTEXT, **options: Any
) -> tuple[Verdict, list[Call]]:
    engine = ScriptedEngine(said, capabilities=Capability.CHAT)
    verifier = VERIFIERS.build("guard", options).ready(resources)
    return await verifier.verify(context, "So.", Run(engine, resources)), engine.calls


def _nemotron(**said: str) -> str:
    return json.dumps({name.replace("_", " "): value for name, value in said.items()})


_BOTH = _nemotron(User_Safety="safe", Response_Safety="unsafe", Safety_Categories="Malware, Threat")


@pytest.mark.parametrize(
    ("format", "said", "score", "facts"),
    [
        ("llama_guard", "\n\nsafe", 1, {}),
        ("llama_guard", "\n\nunsafe\nS1,S10", 0, {"categories": ["S1", "S10"]}),
        ("qwen3guard", "Safety: Safe\nCategories: None\nRefusal: Yes", 1, {"refusal": True}),
        (
            "qwen3guard",
            "Safety: Unsafe\nCategories: Violent, Suicide & Self-Harm\nRefusal: No",
            0,
            {"categories": ["Violent", "Suicide & Self-Harm"], "refusal": False},
        ),
        (
            "qwen3guard",
            "Safety: Controversial\nCategories: PII",
            0.5,
            {"categories": ["PII"], "level": "controversial"},
        ),
        ("nemotron", _nemotron(User_Safety="unsafe", Response_Safety="safe"), 1, {"user": "unsafe"}),
        (
            "nemotron",
            f"```json\n{_BOTH}\n```",
            0,
            {"user": "safe", "categories": ["Malware", "Threat"]},
        ),
        ("granite", "No", 1, {}),
        ("granite", "Yes\n<confidence> High </confidence>", 0, {"categories": [], "confidence": "high"}),
        ("granite", "<think>Hm.</think>\n<score> yes </score>", 0, {"categories": []}),
        ("granite", "<score> no </score>", 1, {}),
    ],
)  # fmt: skip
async def test_answers(
    format: str, said: str, score: float, facts: dict[str, Any], resources: Resources
) -> None:
    for told in ("auto", format):
        verdict, _ = await _judged(said, resources, format=told)
        assert (verdict.score, verdict.passed, dict(verdict.facts)) == (score, score == 1, facts)
        assert bool(verdict.critique) is not verdict.passed


@pytest.mark.parametrize(
    "said",
    [
        "Sure!",
        "",
        "Safety first",
        "{}",
        '{"User Safety": "safe"}',
        "Yes, it may be",
        "<score> maybe </score>",
        "[1]",
    ],
)
async def test_what_is_no_verdict(said: str, resources: Resources) -> None:
    for format in ("auto", "llama_guard", "qwen3guard", "nemotron", "granite"):
        with pytest.raises(NoVerdict):
            await _judged(said, resources, format=format)


async def test_a_question_is_judged_as_the_last_turn(resources: Resources) -> None:
    said = _nemotron(User_Safety="unsafe", Safety_Categories="Malware")
    verdict, (call,) = await _judged(said, resources, QUESTION)
    assert not verdict.passed and call.messages == TURNS
    verdict, (call,) = await _judged("safe", resources)
    assert [m["role"] for m in call.messages] == ["user", "assistant"]


async def test_controversial_is_the_operators_to_decide(resources: Resources) -> None:
    verdict, _ = await _judged("Safety: Controversial\nCategories: PII", resources, controversial="pass")
    assert verdict.passed and verdict.score == 0.5


async def test_nemotron_is_asked_by_a_prompt(resources: Resources) -> None:
    said = _nemotron(User_Safety="safe", Response_Safety="safe")
    _, (call,) = await _judged(said, resources, format="nemotron")
    (message,) = call.messages
    for part in ("S1: Violence.", "user: How?", "agent: So.", '"Response Safety"'):
        assert part in message["content"]
    _, (call,) = await _judged(said, resources, QUESTION, format="nemotron")
    assert "Response Safety" not in call.messages[0]["content"]


async def test_a_template_gets_what_it_takes(resources: Resources) -> None:
    template = {"guardian_config": {"risk_name": "jailbreak"}}
    _, (call,) = await _judged("No", resources, format="granite", template=template)
    assert call.params["chat_template_kwargs"] == template


async def test_shieldgemma_is_asked_one_guideline_at_a_time(resources: Resources) -> None:
    def reply(call: Call) -> str:
        return "Yes, because" if "Hate Speech" in call.messages[0]["content"] else "No"

    for context, roles in ((CONTEXT, ["system", "user", "assistant"]), (QUESTION, ["system", "user"])):
        verdict, calls = await _judged(reply, resources, context, format="shieldgemma")
        assert not verdict.passed and verdict.facts["categories"] == ["hate speech"]
        assert len(calls) == 4 and all([m["role"] for m in c.messages] == roles for c in calls)
    assert (await _judged("No", resources, format="shieldgemma"))[0].passed


@pytest.mark.parametrize(("controversial", "flagged"), [("fail", True), ("pass", False)])
def test_moderations_tell_its_categories(
    controversial: str, flagged: bool, serving: Any, client: Any
) -> None:
    with serving(ScriptedEngine("Safety: Controversial\nCategories: PII")) as url:
        openai: OpenAI = client(url)
        verifiers = {"verifiers": [{"guard": {"controversial": controversial}}]}
        (result,) = openai.moderations.create(input="x", extra_body=verifiers).results
        told: Any = result.to_dict()
        assert told["flagged"] is flagged and told["categories"]["guard/PII"] is flagged
        assert told["category_scores"]["guard/PII"] == 0.5


@pytest.mark.parametrize(("verifier", "norms"), [("self", ()), ("norms", ("Be kind.",))])
@pytest.mark.parametrize("word", ["Yes", "No"])
async def test_models_judge_a_question_in_its_place(
    verifier: str, norms: tuple[str, ...], word: str, resources: Resources
) -> None:
    engine = ScriptedEngine(word, capabilities=Capability.CHAT)
    judge = VERIFIERS.build(verifier, {}).ready(resources)
    verdict = await judge.verify(replace(QUESTION, norms=norms), "How?", Run(engine, resources))
    (call,) = engine.calls
    assert [m["role"] for m in call.messages] == ["user"] and "How?" in call.messages[0]["content"]
    # `self` asks whether a principle would be broken, `norms` whether the rule can be kept.
    assert verdict.passed is (word == ("No" if verifier == "self" else "Yes"))
