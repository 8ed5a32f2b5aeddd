"""A real vLLM server as remote upstream: found out by itself, and the same model as in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openai import OpenAI
from running import at_once
from upstream_fixtures import Proxy

from heedful.server.config import Config
from heedful.server.engines.upstream import start as upstreams
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.strategies import Capability, Extension, RequestError, collect
from heedful.strategies.types import Call

pytestmark = pytest.mark.engine

Client = Callable[[str], OpenAI]
CHAT = "smollm2-135m-instruct"
HI: Any = [{"role": "user", "content": "Name three colours of the rainbow."}]


@pytest.fixture(scope="module")
def remote(vllm_server: str, proxy: Proxy) -> Iterator[str]:
    """heedful before vLLM's own server; nothing but its address is known."""
    with proxy(Config.model_validate({"upstreams": [{"url": f"{vllm_server}/v1"}]})) as url:
        yield url


@pytest_asyncio.fixture
async def engine(vllm_server: str) -> AsyncIterator[OpenAIEngine]:
    config = Config.model_validate({"upstreams": [{"url": f"{vllm_server}/v1"}]})
    async with AsyncExitStack() as stack:
        (found,) = await upstreams.start(config.upstreams, stack, client_keys=False)
        yield found


def test_what_it_can_do_is_found_out(remote: str) -> None:
    entry = httpx.get(f"{remote}/v1/models/{CHAT}").json()
    assert entry["capabilities"] == ["chat", "completion", "prefill", "logprobs", "tokens"]
    assert entry["max_model_len"] == 4096


@pytest.mark.together
@pytest.mark.parametrize("alignment", ["direct", "principles", "urial"])
def test_the_same_answer_as_in_this_process(
    chat_server: str, remote: str, client: Client, alignment: str
) -> None:
    ask: dict[str, Any] = {
        "model": f"{CHAT}@{alignment}",
        "messages": HI,
        "max_tokens": 24,
        "temperature": 0,
        "logprobs": True,
    }

    def whole(url: str) -> str:
        return client(url).chat.completions.create(**ask).choices[0].message.content or ""

    def streamed(url: str) -> str:
        chunks = list(client(url).chat.completions.create(**ask, stream=True))
        return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    first, *others = at_once(
        *(partial(way, url) for way in (whole, streamed) for url in (chat_server, remote))
    )
    assert others == [first] * 3 and len(first) > 20


@pytest.mark.together
def test_thinking_first_uses_the_prefill(remote: str) -> None:
    body = {
        "model": CHAT,
        "messages": HI,
        "max_tokens": 8,
        "temperature": 0,
        "alignment": {
            "pipeline": [{"principles": {"mode": "cot", "max_reasoning_tokens": 12}}],
            "trace": True,
        },
    }
    got = httpx.post(f"{remote}/v1/chat/completions", json=body).json()
    assert got["alignment"]["trace"][0]["reasoning"].startswith("Let's think about how to answer this")
    assert got["usage"]["completion_tokens"] <= 20


@pytest.mark.together
def test_a_search_by_token_ids_runs_over_it(remote: str) -> None:
    search = {
        "no_opinion": "continue",
        "min_visits": 1,
        "max_iterations": 3,
        "extra_iterations": 2,
        "children": 3,
    }
    wish = {"pipeline": [{"rain": {**search, "max_simulation": 8, "similarity": False}}], "trace": True}
    body = {"model": CHAT, "messages": HI, "max_tokens": 7, "seed": 5, "alignment": wish}
    got = httpx.post(f"{remote}/v1/chat/completions", json=body).json()
    assert "alignment" in got, got
    (told,) = (step for step in got["alignment"]["trace"] if "commits" in step)
    assert told["outcome"] == "searched"
    assert "".join(c["text"] for c in told["commits"]) == got["choices"][0]["message"]["content"] != ""
    assert got["alignment"]["usage"]["rain"]["calls"] > 5


@pytest.mark.together
def test_vllms_refusals_keep_their_words(remote: str) -> None:
    body = {"model": CHAT, "messages": HI, "temperature": -1}
    refused = httpx.post(f"{remote}/v1/chat/completions", json=body)
    assert refused.status_code == 400 and "temperature" in refused.json()["error"]["message"]


async def test_tokens_there_and_back(engine: OpenAIEngine) -> None:
    ids = await engine.tokenize("Hello, world")
    assert await engine.detokenize(ids) == "Hello, world"
    (end,) = engine.end_tokens
    assert await engine.detokenize([*ids, end]) == "Hello, world"
    assert await engine.detokenize([end]) == ""
    prompt = await engine.render(HI)
    begun = await engine.render([*HI, {"role": "assistant", "content": "Red"}], continue_final=True)
    assert begun[: len(prompt)] == prompt and await engine.detokenize(begun[len(prompt) :]) == "Red"


async def test_an_extension_of_a_rendered_chat_is_the_chats_answer(engine: OpenAIEngine) -> None:
    prompt = await engine.render(HI)
    (found,), answer = await asyncio.gather(
        engine.extend(Extension(prompt, max_tokens=16, temperature=0, logprobs=3)),
        collect(engine.chat(Call(tuple(HI), {"max_tokens": 16, "temperature": 0}))),
    )
    assert found.text == answer.text and found.finish_reason == "length"
    assert len(found.token_ids) == len(found.logprobs) == 16
    for token, step in zip(found.token_ids, found.logprobs, strict=True):
        assert 3 <= len(step) <= 4 and step[token] == max(step.values()) <= 0


async def test_an_extension_scores_given_tokens(engine: OpenAIEngine) -> None:
    prompt = await engine.render(HI)
    yes, no = (await engine.tokenize("Yes"))[0], (await engine.tokenize("No"))[0]
    (found,) = await engine.extend(Extension(prompt, max_tokens=1, logprob_token_ids=(yes, no)))
    assert {yes, no} <= set(found.logprobs[0])
    # The same figures as the whole distribution's.
    (wide,) = await engine.extend(Extension(prompt, max_tokens=1, temperature=0, logprobs=20))
    (top,) = await engine.extend(
        Extension(prompt, max_tokens=1, logprob_token_ids=tuple(wide.logprobs[0])[:3])
    )
    for token, value in list(wide.logprobs[0].items())[:3]:
        assert top.logprobs[0][token] == pytest.approx(value, abs=0.001)


async def test_several_draws_stops_and_ends(engine: OpenAIEngine) -> None:
    prompt = await engine.render(HI)
    # More stop strings than the API takes: the first one written ends it all the same, tokens and all.
    unheard = ("~1", "~2", "~3", "~4")
    draws, again, (stopped,), (late,), (whole,) = await asyncio.gather(
        engine.extend(Extension(prompt, max_tokens=8, n=3, seed=5)),
        engine.extend(Extension(prompt, max_tokens=8, n=3, seed=5)),
        engine.extend(Extension(prompt, max_tokens=40, temperature=0, stop=(",", "."))),
        engine.extend(Extension(prompt, max_tokens=40, temperature=0, logprobs=1, stop=(*unheard, ".", ","))),
        engine.extend(Extension(prompt, max_tokens=400, temperature=0)),
    )
    assert len({d.token_ids for d in draws}) > 1 and [d.token_ids for d in draws] == [
        d.token_ids for d in again
    ]
    assert stopped.finish_reason == "stop" and stopped.stop in (",", ".")
    assert (late.text, late.finish_reason, late.stop) == (stopped.text, "stop", stopped.stop)
    assert late.token_ids == stopped.token_ids and len(late.logprobs) == len(late.token_ids)
    (end,) = engine.end_tokens
    assert whole.finish_reason == "stop" and whole.stop is None and whole.token_ids[-1] == end


async def test_a_bad_extension_is_refused(engine: OpenAIEngine) -> None:
    with pytest.raises(RequestError):
        await engine.extend(Extension([1, 2], max_tokens=1, temperature=-1))
    assert Capability.TOKENS in engine.capabilities
