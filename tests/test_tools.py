"""Tool calls on the real engine: the requests that five client libraries send, through every API and alignment.

The fields are as recorded from langchain-openai 1.7.4, instructor 1.17.0, pydantic-ai 2.38.0 and litellm 1.110.2.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import anthropic
import httpx
import jsonschema
import openai
import pytest
from openai import OpenAI
from running import at_once

pytestmark = [pytest.mark.engine, pytest.mark.together]

Client = Callable[[str], OpenAI]
MODEL = "smollm2-135m-instruct"
ASKED: Any = [{"role": "user", "content": "What is the weather in Paris for the next 3 days, in celsius?"}]
WEATHER: dict[str, Any] = {
    "properties": {
        "city": {"maxLength": 20, "title": "City", "type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"], "title": "Unit", "type": "string"},
        "days": {"maximum": 9, "minimum": 1, "title": "Days", "type": "integer"},
    },
    "required": ["city", "unit", "days"],
    "title": "Weather",
    "type": "object",
}
STRICT = {**WEATHER, "additionalProperties": False}


def _tool(parameters: Any = WEATHER, **more: Any) -> Any:
    function = {"name": "Weather", "description": "The weather of a city.", "parameters": parameters, **more}
    return {"type": "function", "function": function}


NAMED: Any = {"type": "function", "function": {"name": "Weather"}}
# What each client sends beside the messages, and what finish_reason OpenAI's API has then.
SENT: dict[str, tuple[dict[str, Any], str]] = {
    "langchain bind_tools": (
        {"tool_choice": "required", "tools": [_tool()], "temperature": 0.0},
        "tool_calls",
    ),
    "langchain with_structured_output": (
        {"tool_choice": NAMED, "tools": [_tool()], "parallel_tool_calls": False},
        "stop",
    ),
    "langchain strict": (
        {"tool_choice": NAMED, "tools": [_tool(STRICT, strict=True)], "parallel_tool_calls": False},
        "stop",
    ),
    "instructor TOOLS": ({"tool_choice": NAMED, "tools": [_tool()]}, "stop"),
    "pydantic-ai output": (
        {"tool_choice": "required", "tools": [_tool(STRICT)], "temperature": 0},
        "tool_calls",
    ),
    "pydantic-ai not strict": (
        {"tool_choice": "required", "tools": [_tool(STRICT, strict=False)]},
        "tool_calls",
    ),
    "litellm": ({"tool_choice": "required", "tools": [_tool(WEATHER)]}, "tool_calls"),
    "stop strings of an agent": (
        {"tool_choice": NAMED, "tools": [_tool()], "stop": ["\n", "}", "Weather"]},
        "stop",
    ),
}


def _fits(arguments: str) -> None:
    jsonschema.validate(json.loads(arguments), STRICT)


def _streamed(api: OpenAI, **body: Any) -> tuple[dict[int, dict[str, str]], str | None, str]:
    """The calls by their index, the finish_reason, and the text."""
    calls: dict[int, dict[str, str]] = {}
    reason, text = None, ""
    for chunk in api.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            reason, text = choice.finish_reason or reason, text + (choice.delta.content or "")
            for piece in choice.delta.tool_calls or []:
                call = calls.setdefault(piece.index, {"id": "", "name": "", "arguments": ""})
                assert piece.function is not None
                call["id"] += piece.id or ""
                call["name"] += piece.function.name or ""
                call["arguments"] += piece.function.arguments or ""
    return calls, reason, text


def _both(api: OpenAI, **body: Any) -> Any:
    """The whole answer, and what was streamed."""
    return at_once(lambda: api.chat.completions.create(**body), lambda: _streamed(api, **body))


@pytest.mark.parametrize("client_library", SENT)
def test_what_clients_send_gets_a_call_by_the_schema(
    chat_server: str, client: Client, client_library: str
) -> None:
    fields, reason = SENT[client_library]
    # Room for as many calls as there can be.
    body: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_completion_tokens": 600, "temperature": 0}
    body |= fields
    answer, told = _both(client(chat_server), **body)
    (choice,) = answer.choices
    assert choice.message.tool_calls and not choice.message.content and choice.finish_reason == reason
    for call in choice.message.tool_calls:
        assert call.type == "function" and call.function.name == "Weather"
        _fits(call.function.arguments)
    calls, streamed, text = told
    assert calls and not text and streamed == reason
    assert list(calls) == list(range(len(calls))) and len({c["id"] for c in calls.values()}) == len(calls)
    for each in calls.values():
        assert each["name"] == "Weather"
        _fits(each["arguments"])


ALIGNMENTS: dict[str, Any] = {
    "principles": "principles",
    "reasoning first": {"pipeline": [{"principles": {"mode": "cot", "max_reasoning_tokens": 12}}]},
    "urial": "urial",
    "demos": "demos",
    "norms": "norms",
    "refine": "refine",
    "refine by sentence": {"pipeline": [{"refine": {"mode": "sentence"}}]},
    "best_of_n": {"pipeline": [{"best_of_n": {"n": 2}}]},
    "several": "norms+principles",
}


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_under_every_alignment(chat_server: str, client: Client, alignment: str) -> None:
    extra = {"alignment": ALIGNMENTS[alignment]}
    body: dict[str, Any] = {"model": MODEL, "messages": ASKED, "max_tokens": 300, "extra_body": extra}
    body |= {"tools": [_tool()], "tool_choice": NAMED}
    answer, told = _both(client(chat_server), **body)
    (choice,) = answer.choices
    (call,) = choice.message.tool_calls or []
    assert call.type == "function" and choice.finish_reason == "stop"
    _fits(call.function.arguments)
    calls, reason, text = told
    assert reason == "stop" and not text and list(calls) == [0]
    _fits(calls[0]["arguments"])


@pytest.mark.parametrize("alignment", ["rain", {"pipeline": [{"urial": {"form": "raw"}}]}])
def test_what_has_no_place_for_tools_says_so(chat_server: str, client: Client, alignment: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="^Error code: 400.*tools: ") as refused:
        client(chat_server).chat.completions.create(
            model=MODEL,
            messages=ASKED,
            tools=[_tool()],
            tool_choice="required",
            extra_body={"alignment": alignment},
        )
    assert refused.value.param == "tools"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "Weather"}])
def test_over_messages(chat_server: str, choice: Any, stream: bool) -> None:
    api = anthropic.Anthropic(base_url=chat_server, api_key="x", max_retries=0)
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "messages": ASKED, "tool_choice": choice}
    body["tools"] = [{"name": "Weather", "description": "It.", "input_schema": WEATHER}]
    body["tool_choice"] = {**choice, "disable_parallel_tool_use": True}
    if stream:
        with api.messages.stream(**body) as events:
            message = events.get_final_message()
    else:
        message = api.messages.create(**body)
    (block,) = message.content
    assert message.stop_reason == "tool_use" and block.type == "tool_use" and block.name == "Weather"
    jsonschema.validate(block.input, STRICT)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "Weather"}])
def test_over_responses(chat_server: str, client: Client, choice: Any, stream: bool) -> None:
    api = client(chat_server).responses
    body: dict[str, Any] = {"model": MODEL, "max_output_tokens": 300, "input": ASKED, "tool_choice": choice}
    body["tools"] = [{"type": "function", "name": "Weather", "parameters": WEATHER, "strict": False}]
    body["parallel_tool_calls"] = False
    if stream:
        with api.stream(**body) as events:
            response: Any = events.get_final_response()
    else:
        response = api.create(**body)
    (item,) = response.output
    assert response.status == "completed" and item.type == "function_call" and item.name == "Weather"
    _fits(item.arguments)


def test_a_call_that_the_limit_cuts_off_does_not_look_whole(chat_server: str, client: Client) -> None:
    body: dict[str, Any] = {"model": MODEL, "messages": ASKED, "tools": [_tool()], "tool_choice": "required"}
    body |= {"max_tokens": 22, "temperature": 0}
    theirs = {
        "model": MODEL,
        "max_tokens": 22,
        "messages": ASKED,
        "tool_choice": {"type": "any"},
        "tools": [{"name": "Weather", "input_schema": WEATHER}],
    }
    (answer, told), message = at_once(
        lambda: _both(client(chat_server), **body),
        lambda: httpx.post(f"{chat_server}/v1/messages", json=theirs).json(),
    )
    (choice,) = answer.choices
    assert choice.finish_reason == "length" and not choice.message.content
    for call in choice.message.tool_calls or []:
        assert call.type == "function"
        with pytest.raises(json.JSONDecodeError):
            json.loads(call.function.arguments)
    _, reason, text = told
    assert reason == "length" and not text
    assert message["stop_reason"] == "max_tokens"


def test_several_choices_and_log_probabilities(chat_server: str, client: Client) -> None:
    answer = client(chat_server).chat.completions.create(
        model=MODEL,
        messages=ASKED,
        tools=[_tool()],
        tool_choice=NAMED,
        max_tokens=300,
        n=3,
        seed=1,
        temperature=1,
        logprobs=True,
    )
    assert len(answer.choices) == 3
    for choice in answer.choices:
        (call,) = choice.message.tool_calls or []
        assert call.type == "function" and choice.logprobs and choice.logprobs.content
        _fits(call.function.arguments)


def test_schemas_that_only_some_grammars_know(chat_server: str, client: Client) -> None:
    """What xgrammar lacks another enforces, at the same time; what none knows (`uniqueItems`) leaves the rest
    enforced."""
    plain = {"properties": {"n": {"type": "integer", "maximum": 3}}, "required": ["n"]}
    schemas: list[dict[str, Any]] = [
        plain,
        {"properties": {"n": {"type": "integer", "multipleOf": 5, "maximum": 50}}, "required": ["n"]},
        {
            "properties": {
                "l": {"type": "array", "items": {"$ref": "#/$defs/X"}, "maxItems": 2, "uniqueItems": True}
            },
            "required": ["l"],
            "$defs": {"X": {"enum": ["a", "b"]}},
        },
        plain,
    ]
    wholes: list[Any] = [{"type": "object", "additionalProperties": False, **schema} for schema in schemas]
    create = client(chat_server).chat.completions.create
    asked = partial(create, model=MODEL, messages=ASKED, tool_choice=NAMED, max_tokens=300, temperature=0)
    answers = at_once(*(partial(asked, tools=[_tool(whole)]) for whole in wholes))
    for whole, answer in zip(wholes, answers, strict=True):
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        whole["properties"].get("l", {}).pop("uniqueItems", None)
        jsonschema.validate(json.loads(call.function.arguments), whole)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"type": "object", "properties": {"p": {"$ref": "#/$defs/Q"}}}, "'Weather'.*Cannot find field"),
        ({"type": "object", "properties": {"p": {"type": "strin"}}}, "'Weather'.*Unsupported type"),
        ({"type": "array"}, "arguments are an object, not 'array'"),
    ],
)
def test_a_schema_that_nobody_can_follow_is_named(
    chat_server: str, client: Client, parameters: Any, told: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=told) as refused:
        client(chat_server).chat.completions.create(
            model=MODEL, messages=ASKED, tools=[_tool(parameters)], tool_choice="required"
        )
    assert str(refused.value.param).startswith("tools")


def test_results_go_back_to_a_template_without_a_place_for_them(chat_server: str, client: Client) -> None:
    api = client(chat_server).chat.completions
    first = api.create(model=MODEL, messages=ASKED, tools=[_tool()], tool_choice=NAMED, max_tokens=300)
    called = first.choices[0].message
    assert called.tool_calls
    history: Any = [*ASKED, called.model_dump(include={"role", "content", "tool_calls"})]
    history += [{"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "sunny, 20 degrees"}]
    given: list[Any] = [{}, {"tools": [_tool()]}, {"tools": [_tool()], "tool_choice": "none"}]
    ask = partial(api.create, model=MODEL, messages=history, max_tokens=8, temperature=0)
    for answer in at_once(*(partial(ask, **tools) for tools in given)):
        assert answer.usage and answer.choices[0].finish_reason in ("stop", "length")


def test_the_model_is_told_of_its_tools(chat_server: str, client: Client) -> None:
    """The bundled model's template has no place for them; unforced, it may call one or not."""
    api = client(chat_server).chat.completions
    given: list[Any] = [{}, {"tools": [_tool()]}, {"tools": [_tool()], "tool_choice": "none"}]
    ask = partial(api.create, model=MODEL, messages=ASKED, max_tokens=4)
    answers = at_once(*(partial(ask, **more) for more in given))
    tokens = [answer.usage.prompt_tokens for answer in answers if answer.usage]
    assert tokens[1] > tokens[0] + 60 and tokens[2] == tokens[0]
