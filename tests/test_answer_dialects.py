"""What real upstreams answer, in dialects of their own, through every API and kind of alignment, whole and streamed.

The cases are in answer_dialects.py; however an answer came, each API's official client gets what it means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import anthropic
import httpx
import pytest
from answer_dialects import CASES, Dialect
from openai import OpenAI
from upstream_fixtures import DONE, Asked, Proxy, Reply, ScriptedUpstream, before

from heedful.server.config import Config

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": n, "parameters": {"type": "object"}}}
    for n in ("get_a", "get_b")
]
PASSING = ["none_of_it"]
STRATEGIES: dict[str, Any] = {
    "direct": "direct",
    "traced": {"name": "direct", "trace": True},
    "principles": "principles",
    "refine": [{"refine": {"verifiers": PASSING}}],
    "sentence": [{"refine": {"verifiers": PASSING, "mode": "sentence"}}],
    "best_of_n": [{"best_of_n": {"verifiers": PASSING, "n": 2}}],
}
RAW = ("direct", "principles")  # chat completions whose bytes are the upstream's


OF_A_CHOICE = {"delta", "index", "finish_reason", "message"}


def event(piece: dict[str, Any]) -> bytes:
    choice = {"index": 0, **(piece if OF_A_CHOICE & set(piece) else {"delta": piece})}
    choice = {k: v for k, v in choice.items() if v is not ...}
    body = {
        "id": "u",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "theirs",
        "choices": [choice],
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def answering(dialect: Dialect) -> Any:
    """The upstream: a stream to who wants one; to others its whole answer."""
    last = [] if dialect.reason is None else [event({"delta": {}, "finish_reason": dialect.reason})]
    stream = [*map(event, dialect.pieces), *last, DONE]
    always = dialect.message is None  # an upstream that streams whatever it is asked
    choice = {"index": 0, "message": dialect.message, "finish_reason": dialect.reason}
    whole = {"id": "u", "object": "chat.completion", "created": 1, "model": "theirs", "choices": [choice]}

    def script(asked: Asked) -> Reply:
        return Reply.sse(*stream) if always or asked.body.get("stream") else Reply.json(whole)

    return script, b"".join(stream), json.dumps(whole).encode()


@dataclass
class Got:
    """An answer as a client has it."""

    text: str = ""
    thought: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


@cache
def openai_client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0)


@cache
def anthropic_client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="k", max_retries=0)


@pytest.fixture(scope="module")
def url(_upstream: ScriptedUpstream, proxy: Proxy) -> Iterator[str]:
    verifiers: Any = {"none_of_it": {"policy": {"words": ["never said"]}}}
    with proxy(Config(upstreams=[before(_upstream)], verifiers=verifiers)) as address:
        yield address


def by_chat(url: str, alignment: Any, stream: bool) -> Got:
    client = openai_client(url)
    asked: Any = {
        "model": "ours",
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": TOOLS,
        "extra_body": {"alignment": alignment},
    }
    if not stream:
        message = client.chat.completions.create(**asked).choices[0].message
    else:
        with client.chat.completions.stream(**asked) as events:
            for _ in events:
                pass
            message = events.get_final_completion().choices[0].message
    got = Got(
        message.content or "",
        getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None) or "",
    )
    for each in message.tool_calls or []:
        assert each.type == "function"
        if not stream:
            assert "index" not in (each.model_extra or {})
        got.calls.append((each.function.name, each.function.arguments))
        got.ids.append(each.id)
    return got


def by_messages(url: str, alignment: Any, stream: bool) -> Got:
    client = anthropic_client(url)
    tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"]} for t in TOOLS]
    asked: Any = {
        "model": "ours",
        "max_tokens": 99,
        "messages": [{"role": "user", "content": "Hi"}],
        "tools": tools,
        "extra_body": {"alignment": alignment},
    }
    if not stream:
        message = client.messages.create(**asked)
    else:
        open_block, closed = None, set()
        inputs: dict[int, str] = {}
        with client.messages.stream(**asked) as events:
            for each in events:
                if each.type == "content_block_start":
                    assert open_block is None and each.index not in closed
                    open_block = each.index
                elif each.type == "content_block_delta":
                    assert each.index == open_block
                    if each.delta.type == "input_json_delta":
                        inputs[each.index] = inputs.get(each.index, "") + each.delta.partial_json
                elif each.type == "content_block_stop":
                    # A client that acts on a call the moment its block closes has all of it.
                    block = events.current_message_snapshot.content[each.index]
                    if block.type == "tool_use":
                        assert json.loads(inputs.get(each.index) or "{}") == block.input
                    closed.add(open_block)
                    open_block = None
            message = events.get_final_message()
    got = Got()
    for block in message.content:
        if block.type == "text":
            got.text += block.text
        elif block.type == "thinking":
            got.thought += block.thinking
        else:
            assert block.type == "tool_use"
            got.calls.append((block.name, json.dumps(block.input, separators=(",", ":"))))
            got.ids.append(block.id)
    assert message.stop_reason == ("tool_use" if got.calls else "end_turn")
    return got


def by_responses(url: str, alignment: Any, stream: bool) -> Got:
    client = openai_client(url)
    tools: Any = [{"type": "function", "strict": None, **t["function"]} for t in TOOLS]
    asked: Any = {"model": "ours", "input": "Hi", "tools": tools, "extra_body": {"alignment": alignment}}
    if not stream:
        response = client.responses.create(**asked)
    else:
        done = []
        with client.responses.stream(**asked) as events:
            for each in events:
                if each.type == "response.output_item.done":
                    done.append(each.item.to_dict())
            response = events.get_final_response()
        assert [item.to_dict(exclude_unset=True) for item in response.output] and len(done) == len(
            response.output
        )
        for item, finished in zip(response.output, done, strict=True):
            if item.type == "function_call":
                assert (item.arguments, item.name) == (finished["arguments"], finished["name"])
    got = Got()
    for item in response.output:
        if item.type == "message":
            got.text += "".join(p.text for p in item.content if p.type == "output_text")
        elif item.type == "reasoning":
            got.thought += "".join(p.text for p in item.content or [])
        else:
            assert item.type == "function_call" and item.status == "completed"
            json.loads(item.arguments)
            got.calls.append((item.name, item.arguments))
            got.ids.append(item.call_id)
    return got


APIS = {"chat": by_chat, "messages": by_messages, "responses": by_responses}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("alignment", STRATEGIES)
@pytest.mark.parametrize("case", CASES)
def test_every_dialect_means_the_same(
    url: str, upstream: ScriptedUpstream, case: str, alignment: str, stream: bool
) -> None:
    dialect = CASES[case]
    upstream.answers(answering(dialect)[0])
    for api, ask in APIS.items():
        if api == "chat" and alignment in RAW:
            continue  # its bytes are the upstream's, see below
        got = ask(url, STRATEGIES[alignment], stream)
        assert (got.text, got.thought) == (dialect.text, dialect.thought), api
        assert [n for n, _ in got.calls] == [n for n, _ in dialect.calls], api
        assert [json.loads(a) for _, a in got.calls] == [json.loads(a) for _, a in dialect.calls], api
        if dialect.ids:
            assert got.ids == dialect.ids, api
        assert all(got.ids) and len(set(got.ids)) == len(got.ids)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", CASES)
def test_what_goes_through_is_left_as_it_is(
    url: str, upstream: ScriptedUpstream, case: str, stream: bool
) -> None:
    dialect = CASES[case]
    script, pieces, whole = answering(dialect)
    upstream.answers(script)
    streams = stream or dialect.message is None
    for alignment in RAW:
        body = {
            "model": "ours",
            "messages": [{"role": "user", "content": "Hi"}],
            "alignment": alignment,
            "stream": stream,
        }
        assert httpx.post(f"{url}/v1/chat/completions", json=body).content == (pieces if streams else whole)
