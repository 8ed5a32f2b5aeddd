"""The wire format against vLLM's own server: same model, same request, same answer, field by field.

Exceptions, all of them:
- `id` and `created` are each response's own;
- a stream carries `system_fingerprint` on its usage event; without `include_usage` it has none (vLLM then puts it on
  the last chunk of text, which here has long left as it came);
- what vLLM refuses inside a 200 stream is a plain 4xx here.
Both compute in float32. Two computations of the same differ in its last digits all the same (a batch is put together
as the machine's moment has it), so that log-probabilities are compared within 0.001: far below what parts two tokens
of any request here, drawn by seed or not. A `cache_salt` of its own keeps a request from the prefix cache.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest
from running import at_once

pytestmark = [pytest.mark.engine, pytest.mark.together]

OWN = {"id", "created"}
HI = [{"role": "user", "content": "Name three colours of the rainbow."}]
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "maxLength": 12}, "count": {"type": "integer"}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
        },
    },
}

CHAT: dict[str, dict[str, Any]] = {
    "plain": {},
    "one token": {"max_tokens": 1},
    "max_completion_tokens": {"max_completion_tokens": 5},
    "sampled with a seed": {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "seed": 7},
    "n": {"n": 2, "temperature": 1.0, "seed": 7},
    "logprobs": {"logprobs": True, "top_logprobs": 3},
    "stop": {"stop": [",", "."]},
    "stop kept": {"stop": ".", "include_stop_str_in_output": True},
    "penalties": {"presence_penalty": 1.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    "logit_bias": {"logit_bias": {"28": -100, "30": 5}},
    "user and unknown fields": {"user": "u", "metadata": {"a": "b"}, "surprise": 1},
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        "max_tokens": 40,
    },
    # Calls are not vLLM's on purpose: this template has no place for tools, and vLLM leaves them out.
    "tools, none wanted": {"tools": [TOOL], "tool_choice": "none"},
    "continue": {
        "messages": [*HI, {"role": "assistant", "content": "The three colours are"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
    "conversation": {
        "messages": [
            {"role": "system", "content": "You answer in one word."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "And now?"},
        ]
    },
    "token ids": {"return_token_ids": True},
    "echo": {"echo": True},
}
COMPLETION: dict[str, dict[str, Any]] = {
    "plain": {},
    "several prompts": {"prompt": ["Once upon", "The end of"]},
    "token ids": {"prompt": [504, 2443, 314]},
    "n and logprobs": {"n": 2, "temperature": 1.0, "seed": 3, "logprobs": 2},
    "echo": {"echo": True},
    "stop": {"stop": ["."], "max_tokens": 30},
}
REFUSED: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": -1},
    "top_p": {"top_p": 2},
    "n": {"n": 0},
    "n as text": {"n": "many"},
    "max_tokens": {"max_tokens": -5},
    "max_tokens past the context": {"max_tokens": 100_000},
    "top_logprobs alone": {"top_logprobs": 3},
    "top_logprobs too many": {"logprobs": True, "top_logprobs": 500},
    "stop": {"stop": 3},
    "logit_bias": {"logit_bias": {"word": 1}},
    "logit_bias past the vocabulary": {"logit_bias": {"9999999": 1}},
    "response_format": {"response_format": {"type": "poem"}},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
        }
    },
    "tool_choice without tools": {"tool_choice": "required"},
    "tool of that name": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
    "tools": {"tools": [{"type": "function"}]},
    "role": {"messages": [{"role": "wizard", "content": "Hi"}]},
    "image": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}],
            }
        ]
    },
    "seed": {"seed": "x"},
    "stream_options without stream": {"stream_options": {"include_usage": True}},
    "continue and generate": {"continue_final_message": True, "add_generation_prompt": True},
}


def _body(case: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "smollm2-135m-instruct", "temperature": 0, "max_tokens": 16, **more, **case}


def _without(value: Any) -> Any:
    """The same value without what is each response's own."""
    if isinstance(value, dict):
        return {k: _without(v) for k, v in value.items() if k not in OWN}
    if isinstance(value, list):
        return [_without(v) for v in value]
    return value


def _events(response: httpx.Response) -> list[Any]:
    lines = response.text.strip().split("\n\n")
    assert all(line.startswith("data: ") for line in lines), lines
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def _compare(ours: str, theirs: str, path: str, body: dict[str, Any]) -> None:
    body["cache_salt"] = uuid4().hex
    ways: list[dict[str, Any]] = [
        {},
        {"stream": True},
        {"stream": True, "stream_options": {"include_usage": True}},
    ]
    asked = [
        partial(httpx.post, f"{url}/v1/{path}", json=body | way) for way in ways for url in (ours, theirs)
    ]
    given = at_once(*asked)
    for i, options in enumerate(ways):
        answers = given[2 * i : 2 * i + 2]
        assert [a.status_code for a in answers] == [200, 200], answers[0].text
        if not options:
            mine, yours = (_without(a.json()) for a in answers)
        else:
            # How many tokens share a chunk depends on the machine's moment, so pieces are joined first.
            mine, yours = (_joined(_events(a)) for a in answers)
            if "stream_options" not in options:
                yours.pop("system_fingerprint", None)
        assert _near(mine, yours), f"{mine}\n{yours}"


def _near(mine: Any, yours: Any) -> bool:
    """Equal, but for the last digits of floats."""
    if isinstance(mine, dict) and isinstance(yours, dict):
        return mine.keys() == yours.keys() and all(_near(mine[k], yours[k]) for k in mine)
    if isinstance(mine, list) and isinstance(yours, list):
        return len(mine) == len(yours) and all(map(_near, mine, yours))
    if isinstance(mine, float) and isinstance(yours, float):
        return mine == pytest.approx(yours, abs=0.001)
    return type(mine) is type(yours) and bool(mine == yours)


def _joined(events: list[Any]) -> dict[str, Any]:
    """A stream as one value: every field of every chunk, with what grows joined."""
    whole: dict[str, Any] = {"end": events[-1], "ids": len({e["id"] for e in events[:-1]}), "choices": {}}
    for event in events[:-1]:
        whole |= {k: v for k, v in _without(event).items() if k != "choices"}
        whole["last_has_usage"] = "usage" in event
        for choice in _without(event["choices"]):
            _grow(whole["choices"].setdefault(choice.pop("index"), {}), choice)
    return whole


def _grow(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    for key, value in piece.items():
        old = whole.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            _grow(old, value)
        elif key == "tool_calls" and old:
            _grow(old[0], value[0])
        elif isinstance(old, str) and isinstance(value, str) and key not in ("role", "type", "name"):
            whole[key] = old + value
        elif isinstance(old, list) and isinstance(value, list):
            whole[key] = [*old, *value]
        elif value is not None or old is None:
            whole[key] = value


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_forced_call_has_vllms_fields(chat_server: str, vllm_server: str, choice: Any) -> None:
    """And its finish_reason; what the call says is ours (tests/test_tools.py)."""
    # Strict, without which vLLM enforces no schema and may find no call in what it got.
    tool = {**TOOL, "function": {**TOOL["function"], "strict": True}}
    body = _body({"tools": [tool], "tool_choice": choice}, max_tokens=200, messages=HI)
    asked = [partial(httpx.post, f"{u}/v1/chat/completions", json=body) for u in (chat_server, vllm_server)]
    mine, yours = (answer.json() for answer in at_once(*asked))
    assert set(mine) == set(yours)
    ((mine,), (yours,)) = mine["choices"], yours["choices"]
    assert set(mine) == set(yours) and mine["finish_reason"] == yours["finish_reason"]
    assert set(mine["message"]) == set(yours["message"])
    calls = mine["message"]["tool_calls"], yours["message"]["tool_calls"]
    assert set(calls[0][0]) == set(calls[1][0]) and set(calls[0][0]["function"]) == set(
        calls[1][0]["function"]
    )


@pytest.mark.parametrize("case", CHAT)
def test_chat(chat_server: str, vllm_server: str, case: str) -> None:
    _compare(
        chat_server,
        vllm_server,
        "chat/completions",
        _body(CHAT[case], messages=CHAT[case].get("messages", HI)),
    )


@pytest.mark.parametrize("case", COMPLETION)
def test_completions(chat_server: str, vllm_server: str, case: str) -> None:
    _compare(
        chat_server,
        vllm_server,
        "completions",
        _body(COMPLETION[case], prompt=COMPLETION[case].get("prompt", "The sky")),
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_refusals(chat_server: str, vllm_server: str, case: str, stream: bool) -> None:
    """What vLLM refuses we refuse, with its status, as an error object; never a 5xx and never a stack trace."""
    body = _body(REFUSED[case], messages=REFUSED[case].get("messages", HI), stream=stream)
    asked = [partial(httpx.post, f"{u}/v1/chat/completions", json=body) for u in (chat_server, vllm_server)]
    ours, theirs = at_once(*asked)
    refused = theirs.status_code >= 400 or '"error"' in theirs.text
    if not refused:
        assert ours.status_code == 200
        return
    error = ours.json()["error"]
    assert 400 <= ours.status_code < 500
    # vLLM answers some bad values with a 5xx; a client's mistake is a 4xx here.
    assert theirs.status_code in (ours.status_code, 200) or theirs.status_code >= 500
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert "Traceback" not in ours.text and 'File "' not in ours.text
