"""Judges and samples of an upstream that don't give what was asked: errors that clients take as final."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from upstream_fixtures import Asked, Proxy, Reply, ScriptedUpstream, before, completion, streamed

from heedful.server.config import Config

HI: Any = [{"role": "user", "content": "Hi"}]
ALIGNMENTS: Any = {
    "judged": [{"refine": {"verifiers": ["self"]}}],
    "sampled": [{"best_of_n": {"verifiers": ["self"], "n": 2}}],
    "guarded": [{"refine": {"verifiers": ["guard"], "mode": "sentence"}}],
}


@pytest.fixture(scope="module")
def url(_upstream: ScriptedUpstream, proxy: Proxy) -> Iterator[str]:
    with proxy(Config(upstreams=[before(_upstream)], alignments=ALIGNMENTS)) as url:
        yield url


def said(text: str, asked: Asked) -> Reply:
    return Reply.sse(*streamed(text)) if asked.body.get("stream") else Reply.json(completion(text))


@pytest.mark.parametrize("alignment", sorted(ALIGNMENTS))
def test_a_judge_that_answers_in_words_is_a_502_that_nobody_retries(
    alignment: str, url: str, upstream: ScriptedUpstream
) -> None:
    upstream.answers(lambda asked: said("Well, it depends.", asked))
    chat = openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=2)
    model = f"ours@{alignment}"
    with pytest.raises(openai.InternalServerError, match="Well, it depends") as caught:
        chat.chat.completions.create(model=model, messages=HI)
    assert (caught.value.status_code, caught.value.code) == (502, "no_verdict")
    once = len(upstream.asked)
    with pytest.raises(openai.InternalServerError) as again:
        chat.responses.create(model=model, input="Hi")
    assert (again.value.status_code, again.value.code) == (502, "no_verdict")
    messages = anthropic.Anthropic(base_url=url, api_key="k", max_retries=2)
    with pytest.raises(anthropic.InternalServerError, match="Well, it depends") as other:
        messages.messages.create(model=model, max_tokens=50, messages=HI)
    assert other.value.status_code == 502
    assert other.value.body["error"]["type"] == "api_error"  # type: ignore[index]
    assert len(upstream.asked) == 3 * once


@pytest.mark.parametrize("alignment", sorted(ALIGNMENTS))
def test_the_same_streamed(alignment: str, url: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(lambda asked: said("Well, it depends.", asked))
    model = f"ours@{alignment}"
    body = {"model": model, "messages": HI, "stream": True}
    response = httpx.post(f"{url}/v1/chat/completions", json=body)
    assert '"no_verdict"' in response.text and "[DONE]" not in response.text.partition('"error"')[0]
    response = httpx.post(f"{url}/v1/messages", json=body | {"max_tokens": 50})
    assert '"api_error"' in response.text and "overloaded" not in response.text


def test_a_model_that_turns_out_to_report_no_log_probabilities(
    _upstream: ScriptedUpstream, upstream: ScriptedUpstream, proxy: Proxy
) -> None:
    upstream.answers(lambda asked: said("Hello", asked))
    claimed = before(_upstream, capabilities=["chat", "logprobs"])
    body = {
        "model": "ours",
        "messages": HI,
        "alignment": {"pipeline": [{"best_of_n": {"verifiers": [], "n": 2}}]},
    }
    with proxy(Config(upstreams=[claimed])) as url:
        first = httpx.post(f"{url}/v1/chat/completions", json=body)
        error = first.json()["error"]
        assert (first.status_code, error["code"]) == (400, "missing_capability"), error
        assert "no log-probabilities" in error["message"]
        asked = len(upstream.asked)
        for path in ("chat/completions", "messages"):
            again = httpx.post(f"{url}/v1/{path}", json=body | {"max_tokens": 5})
            assert again.status_code == 400 and "logprobs" in again.text
        assert len(upstream.asked) == asked  # learnt
        body["alignment"] = {"pipeline": [{"best_of_n": {"n": 2}}]}
        assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200
