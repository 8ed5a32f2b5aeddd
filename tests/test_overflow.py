"""A conversation that is too long is told in the words by which the well-known clients know it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from openai import BadRequestError, OpenAI
from upstream_fixtures import Reply, ScriptedUpstream

from heedful.strategies import Call, ContextOverflow
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

OPENAIS = r"This model's maximum context length is (\d+) tokens\. However, .*? (\d+) tokens"
ANTHROPICS = r"prompt is too long: (\d+) tokens > (\d+) maximum"
LONG = "word " * 6000


def numbers(pattern: str, error: Exception) -> tuple[int, int]:
    found = re.search(pattern, str(error))
    assert found, error
    return int(found[1]), int(found[2])


def test_of_an_engine_on_every_api(serving: Callable[..., Any], client: Callable[[str], OpenAI]) -> None:
    def reply(call: Call) -> Exception:
        return ContextOverflow(4096, 5000, param="messages")

    with serving(ScriptedEngine(reply)) as url:
        for alignment in ("direct", "principles", "refine"):
            model, message = f"scripted@{alignment}", {"role": "user", "content": "Hi"}
            with pytest.raises(BadRequestError) as told:
                client(url).chat.completions.create(model=model, messages=[message])  # type: ignore[list-item]
            assert told.value.code == "context_length_exceeded" and told.value.param == "messages"
            assert numbers(OPENAIS, told.value) == (4096, 5000)
            with pytest.raises(BadRequestError) as told:
                client(url).responses.create(model=model, input="Hi")
            assert told.value.code == "context_length_exceeded"
            theirs = anthropic.Anthropic(base_url=url, api_key="x", max_retries=0)
            with pytest.raises(anthropic.BadRequestError) as also:
                theirs.messages.create(model=model, max_tokens=5, messages=[message])  # type: ignore[list-item]
            assert numbers(ANTHROPICS, also.value) == (5000, 4096)


def test_of_an_upstream(proxied: str, upstream: ScriptedUpstream) -> None:
    said = (
        "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 tokens. "
        "Please reduce the length of the messages."
    )
    refusal = {"message": said, "code": "context_length_exceeded", "param": "messages"}
    upstream.answers(Reply.json({"error": refusal}, status=400))
    theirs = anthropic.Anthropic(base_url=proxied, api_key="x", max_retries=0)
    with pytest.raises(anthropic.BadRequestError) as told:
        theirs.messages.create(model="ours", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
    assert numbers(ANTHROPICS, told.value) == (5000, 4097)


def test_of_rains_own_room(serving: Callable[..., Any], client: Callable[[str], OpenAI]) -> None:
    engine = ScriptedEngine(extend=ScriptedModel(lambda _: {65: 1.0}), context_length=512)
    with serving(engine) as url, pytest.raises(BadRequestError) as told:
        client(url).chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": LONG}],
            extra_body={"alignment": [{"rain": {"similarity": False}}]},
        )
    assert told.value.code == "context_length_exceeded"
    assert numbers(OPENAIS, told.value)[0] == 512 and numbers(OPENAIS, told.value)[1] > 6000


@pytest.mark.parametrize("content", [LONG, [{"type": "text", "text": LONG}, {"type": "text", "text": "?"}]])
def test_of_the_real_engine(chat_server: str, client: Callable[[str], OpenAI], content: Any) -> None:
    for alignment in ("direct", "principles"):
        for stream in (False, True):
            with pytest.raises(BadRequestError) as told:
                client(chat_server).chat.completions.create(
                    model="smollm2-135m-instruct",
                    messages=[{"role": "user", "content": content}],
                    stream=stream,
                    extra_body={"alignment": alignment},
                )
            assert told.value.code == "context_length_exceeded" and told.value.param == "messages"
            limit, used = numbers(OPENAIS, told.value)
            assert limit == 4096 and 6000 < used < 13_000
