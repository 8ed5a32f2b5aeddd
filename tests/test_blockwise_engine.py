"""blockwise on the real engine, through the official client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

pytestmark = [pytest.mark.engine, pytest.mark.together]
MODEL = "smollm2-135m-instruct"
NO_E: Any = {"policy": {"deny": ["e"]}}
TALK: Any = [{"role": "user", "content": "Name three colours and say a word about each."}]


@pytest.fixture(scope="module")
def openai(chat_server: str, client: Callable[[str], OpenAI]) -> OpenAI:
    return client(chat_server)


def ask(openai: OpenAI, options: dict[str, Any], **fields: Any) -> Any:
    own = {"n": 3, "tokens": 8, "verifiers": [NO_E], **options}
    alignment = {"pipeline": [{"blockwise": own}], "trace": True}
    fields = {"messages": TALK, "max_tokens": 24, "seed": 5, "temperature": 0.9, **fields}
    return openai.chat.completions.create(model=MODEL, extra_body={"alignment": alignment}, **fields)


@pytest.mark.parametrize(
    "options", [{}, {"keep": "first"}, {"keep": "resample"}, {"segment": "uncertain", "tokens": 20}], ids=str
)
def test_every_way_answers(openai: OpenAI, options: dict[str, Any]) -> None:
    response = ask(openai, options)
    *segments, whole = response.model_extra["alignment"]["trace"]
    assert response.choices[0].message.content.strip() and segments
    assert response.usage.completion_tokens == whole["drafted"] >= whole["tokens"]
    assert whole["tokens"] <= 24 and whole["judged"] > 0
    if options.get("keep") != "resample":
        kept = [s["candidates"][s["kept"]] for s in segments]
        assert all(
            k["score"] == max(c["score"] for c in s["candidates"])
            for k, s in zip(kept, segments, strict=True)
        )
        assert "".join(k["text"] for k in kept) == response.choices[0].message.content


def test_segments_stream(openai: OpenAI) -> None:
    stream = list(ask(openai, {}, stream=True))
    pieces = [c.choices[0].delta.content for c in stream if c.choices and c.choices[0].delta.content]
    assert len(pieces) > 1
    assert [c.choices[0].finish_reason for c in stream if c.choices][-1] in ("stop", "length")


def test_a_client_may_leave(openai: OpenAI) -> None:
    with ask(openai, {}, stream=True, max_tokens=400) as stream:
        next(iter(stream))
    assert ask(openai, {}, max_tokens=8).choices[0].message.content  # and the engine is there for others


@pytest.mark.parametrize(
    ("options", "fields", "named"),
    [
        ({"n": 0}, {}, "n"),
        ({"keep": "worst"}, {}, "keep"),
        ({"verifiers": []}, {}, "at least one verifier"),
        ({"segments": 3}, {}, "segments"),
        ({}, {"presence_penalty": 1}, "presence_penalty"),
    ],
    ids=str,
)
def test_bad_options_are_named(openai: OpenAI, options: dict[str, Any], fields: Any, named: str) -> None:
    with pytest.raises(BadRequestError, match=named):
        ask(openai, options, **fields)
