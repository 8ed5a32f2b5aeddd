"""Every field that the official clients of the two translated APIs can send is honoured, ignored or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count_params
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types.responses import response_create_params
from upstream_fixtures import ScriptedUpstream

from heedful.server.api.bodies import fates
from heedful.server.api.messages.request import CountBody
from heedful.server.api.responses.request import ResponsesBody

HI: Any = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
STRICT = {
    "type": "json_schema",
    "json_schema": {"name": "output", "schema": SCHEMA, "strict": True},
}
ANTHROPIC = {
    *message_create_params.MessageCreateParamsBase.__annotations__,
    *message_create_params.MessageCreateParamsStreaming.__annotations__,
    *beta_create_params.MessageCreateParamsBase.__annotations__,
    *message_count_tokens_params.MessageCountTokensParams.__annotations__,
    *beta_count_params.MessageCountTokensParams.__annotations__,
    "output_format",  # before output_config
}
OPENAI = {
    *response_create_params.ResponseCreateParamsBase.__annotations__,
    *response_create_params.ResponseCreateParamsStreaming.__annotations__,
}
KNOWN = {"messages": ANTHROPIC, "responses": OPENAI}
BODIES: dict[str, Any] = {"messages": CountBody, "responses": ResponsesBody}
VALID: dict[str, Any] = {
    "messages": {"model": "ours", "max_tokens": 9, "messages": HI},
    "responses": {"model": "ours", "input": "Hi"},
}
# What a field becomes for the model: the field, its value, and what the upstream is sent.
BECOMES: dict[str, list[tuple[str, Any, dict[str, Any]]]] = {
    "messages": [
        ("model", "ours", {"model": "theirs"}),
        ("messages", HI, {"messages": HI}),
        ("max_tokens", 7, {"max_tokens": 7}),
        ("system", "Be brief.", {"messages": [{"role": "system", "content": "Be brief."}, *HI]}),
        ("stop_sequences", ["END"], {"stop": ["END"]}),
        ("stream", False, {"stream": False}),
        (
            "tools",
            [{"name": "f", "input_schema": SCHEMA, "strict": True, "cache_control": {"type": "ephemeral"}}],
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
                ]
            },
        ),
        ("tool_choice", {"type": "none"}, {"tool_choice": "none"}),
        ("metadata", {"user_id": "u" * 64}, {"user": "u" * 64}),
        ("thinking", {"type": "enabled", "budget_tokens": 9000}, {"reasoning_effort": "high"}),
        ("output_config", {"effort": "low"}, {"reasoning_effort": "low"}),
        (
            "output_config",
            {"format": {"type": "json_schema", "schema": SCHEMA}, "task_budget": {"total": 5}},
            {"response_format": STRICT},
        ),
        ("output_format", {"type": "json_schema", "schema": SCHEMA}, {"response_format": STRICT}),
    ],
    "responses": [
        ("model", "ours", {"model": "theirs"}),
        ("input", "Hi", {"messages": HI}),
        ("instructions", "Be brief.", {"messages": [{"role": "system", "content": "Be brief."}, *HI]}),
        ("max_output_tokens", 7, {"max_completion_tokens": 7}),
        ("stream", False, {"stream": False}),
        (
            "tools",
            [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}
                ]
            },
        ),
        ("tool_choice", "required", {"tool_choice": "required"}),
        (
            "text",
            {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        ),
        ("reasoning", {"effort": "low", "summary": "auto"}, {"reasoning_effort": "low"}),
        ("top_logprobs", 3, {"logprobs": True, "top_logprobs": 3}),
        ("include", ["message.output_text.logprobs", "reasoning.encrypted_content"], {"logprobs": True}),
    ],
}
SAMPLES: dict[str, Any] = {
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "temperature": 0.5,
    "top_p": 0.5,
    "parallel_tool_calls": False,
    "metadata": {"a": "b"},
    "moderation": {"model": "m"},
    "prompt_cache_options": {"mode": "implicit"},
    "stream_options": {"include_obfuscation": False},
    "compaction": {"enabled": True},
}


@pytest.mark.parametrize("api", KNOWN)
def test_every_field_is_decided(api: str) -> None:
    decided = fates(BODIES[api])
    ours = {"alignment", "temperature", "top_p"} - KNOWN[api]
    assert {*decided.read, *decided.passed, *decided.ignored, *decided.refused} - ours == KNOWN[api]


@pytest.mark.parametrize("api", KNOWN)
def test_the_docs_have_the_table(api: str) -> None:
    text = (Path(__file__).parents[1] / "docs" / "proxy.md").read_text()
    section = text.split(f"### Fields of /v1/{api}\n")[1].split("\n## ")[0].split("\n### ")[0]
    named = set(
        re.findall(
            r"`([a-z_]+)`", "".join(line.split("|")[1] for line in section.splitlines() if "|" in line)
        )
    )
    assert named == KNOWN[api]


def _cases(kind: str) -> list[tuple[str, str]]:
    return [(api, field) for api, body in BODIES.items() for field in sorted(getattr(fates(body), kind))]


def _ask(url: str, api: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/{api}", json={**VALID[api], **more})


@pytest.mark.parametrize(("api", "field"), _cases("ignored"))
def test_what_is_harmless_is_ignored(proxied: str, upstream: ScriptedUpstream, api: str, field: str) -> None:
    for value in (SAMPLES.get(field, "x"), None):
        assert _ask(proxied, api, **{field: value}).status_code == 200
        assert field not in upstream.last.body


@pytest.mark.parametrize(("api", "field"), _cases("refused"))
def test_what_cant_be_honoured_is_refused_by_name(
    proxied: str, upstream: ScriptedUpstream, api: str, field: str
) -> None:
    refused = _ask(proxied, api, **{field: SAMPLES.get(field, "x")})
    assert refused.status_code == 400 and refused.json()["error"]["message"].startswith(f"{field}: ")
    assert _ask(proxied, api, **{field: None}).status_code == 200
    assert field not in upstream.last.body


@pytest.mark.parametrize(("api", "field"), _cases("passed"))
def test_what_chat_has_too_is_passed_on(
    proxied: str, upstream: ScriptedUpstream, api: str, field: str
) -> None:
    value = SAMPLES.get(field, "x")
    assert _ask(proxied, api, **{field: value}).status_code == 200
    assert upstream.last.body[field] == value


@pytest.mark.parametrize(("api", "field"), [case for case in _cases("read") if case[1] != "alignment"])
def test_what_is_honoured_reaches_the_model(
    proxied: str, upstream: ScriptedUpstream, api: str, field: str
) -> None:
    cases = [case for case in BECOMES[api] if case[0] == field]
    assert cases
    for _, value, sent in cases:
        extra = {"tools": BECOMES[api][6 if api == "messages" else 5][1]} if field == "tool_choice" else {}
        assert _ask(proxied, api, **{field: value}, **extra).status_code == 200
        assert {k: upstream.last.body.get(k) for k in sent} == sent


def test_an_unknown_field_travels_on(proxied: str, upstream: ScriptedUpstream) -> None:
    for api in VALID:
        assert _ask(proxied, api, min_p=0.1).status_code == 200
        assert upstream.last.body["min_p"] == 0.1


def test_an_effort_goes_before_a_thinking_budget(proxied: str, upstream: ScriptedUpstream) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    _ask(proxied, "messages", thinking=thinking, output_config={"effort": "max"})
    assert upstream.last.body["reasoning_effort"] == "max"


def test_a_long_user_id_is_hashed_the_same_each_time(proxied: str, upstream: ScriptedUpstream) -> None:
    seen = []
    for id in ("u" * 150, "u" * 150, "v" * 150):
        _ask(proxied, "messages", metadata={"user_id": id})
        seen.append(upstream.last.body["user"])
    assert seen[0] == seen[1] != seen[2] and all(len(user) == 64 for user in seen)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_config": {"format": "json"}}, "output_config.format"),
        ({"output_config": 3}, "output_config"),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
        ({"metadata": {"user_id": 3}}, "metadata.user_id"),
        (
            {"tools": [{"name": "f", "allowed_callers": ["code_execution_20250825"]}]},
            "tools.0.allowed_callers",
        ),
    ],
)
def test_a_bad_value_is_refused_by_name(proxied: str, fields: dict[str, Any], param: str) -> None:
    refused = _ask(proxied, "messages", **fields)
    assert refused.status_code == 400 and refused.json()["error"]["message"].startswith(f"{param}: ")
