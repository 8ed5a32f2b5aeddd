"""RAIN against the real engine, as a client meets it. Budgets are small: mechanics, not quality."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from running import at_once

pytestmark = [pytest.mark.engine, pytest.mark.together]

SMALL = {
    "no_opinion": "continue",
    "min_visits": 1,
    "max_iterations": 4,
    "extra_iterations": 2,
    "children": 3,
    "max_simulation": 8,
    "seed": 5,
}
TALK: Any = [{"role": "user", "content": "How do I keep bread fresh?"}]


def ask(client: OpenAI, model: str, options: dict[str, Any], **fields: Any) -> Any:
    alignment = {"pipeline": [{"rain": SMALL | options}], "trace": True}
    fields = {"messages": TALK, "max_tokens": 12} | fields
    return client.chat.completions.create(model=model, extra_body={"alignment": alignment}, **fields)


def notes(response: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for step in response.model_extra["alignment"]["trace"]:
        if step["step"] == "rain":
            found |= step
    return found


@pytest.fixture(scope="module")
def openai(chat_server: str, client: Callable[[str], OpenAI]) -> OpenAI:
    return client(chat_server)


MODEL = "smollm2-135m-instruct"


def test_an_answer_with_its_tree(openai: OpenAI) -> None:
    response = ask(openai, MODEL, {}, logprobs=True, top_logprobs=2)
    choice, told = response.choices[0], notes(response)
    assert choice.message.content
    assert told["outcome"] == "searched"
    assert "".join(c["text"] for c in told["commits"]) == choice.message.content
    assert "".join(t.token for t in choice.logprobs.content) == choice.message.content
    assert all(len(t.top_logprobs) == 2 for t in choice.logprobs.content)
    assert response.usage.completion_tokens == told["drafted"] > told["committed_tokens"]
    assert response.usage.model_extra["alignment_details"]["rain"]["calls"] > 10


def test_streams_and_repeats_itself(openai: OpenAI) -> None:
    """Same seed, same engine, reference mode: the same answer, streamed or whole."""
    reference = partial(ask, openai, MODEL, {"parallel_leaves": 1}, max_tokens=7)
    whole, stream = at_once(reference, lambda: list(reference(stream=True)))
    pieces = [c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 1
    assert "".join(pieces) == whole.choices[0].message.content


def test_several_choices_and_stop_strings(openai: OpenAI) -> None:
    response = ask(openai, MODEL, {}, n=2, stop=[" ", "\n"])
    assert [c.index for c in response.choices] == [0, 1]
    for choice in response.choices:
        assert choice.finish_reason in ("stop", "length")
        assert " " not in choice.message.content


def test_a_time_budget(openai: OpenAI) -> None:
    response = ask(openai, MODEL, {"max_seconds": 1.0, "min_visits": 50, "max_iterations": 60}, max_tokens=64)
    assert notes(response)["outcome"] == "the budget max_seconds was spent"
    assert response.choices[0].finish_reason == "length"


def test_a_rule_of_ones_own_beside_principles(openai: OpenAI) -> None:
    alignment = {"pipeline": ["principles", {"rain": SMALL | {"rule": "Name no prices."}}], "trace": True}
    response = openai.chat.completions.create(
        model=MODEL, messages=TALK, max_tokens=3, extra_body={"alignment": alignment}
    )
    assert response.choices[0].message.content
    assert notes(response)["prompt"].startswith("rain/rule@")


def test_verifiers_judge_in_the_models_place(openai: OpenAI) -> None:
    response = ask(openai, MODEL, {"value": ["toxicity", {"policy": {"deny": ["[Bb]read"]}}]})
    told = notes(response)
    assert response.choices[0].message.content
    assert told["value"] == ["toxicity", "policy"] and "prompt" not in told
    assert told["verdicts"] > 0 == told["judgements"]


def test_what_is_refused(openai: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for fields in ({"tools": tools}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(BadRequestError) as caught:
            ask(openai, MODEL, {}, **fields)
        assert caught.value.param == next(iter(fields))


def test_a_base_model_with_a_raw_prompt(base_server: str, client: Callable[[str], OpenAI]) -> None:
    alignment = {"pipeline": ["urial", {"rain": SMALL}], "trace": True}
    response = client(base_server).chat.completions.create(
        model="gemma-3-270m", messages=TALK, max_tokens=7, extra_body={"alignment": alignment}
    )
    assert response.choices[0].message.content
    assert notes(response)["outcome"] == "searched"
