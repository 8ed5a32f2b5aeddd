"""The real engine and the bundled models, through the official client."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from engine_fixtures import InProcess
from openai import OpenAI
from running import at_once

from heedful.strategies import Capability, Extension

pytestmark = pytest.mark.engine

Client = Callable[[str], OpenAI]
CHAT, BASE = "smollm2-135m-instruct", "gemma-3-270m"
HI: Any = [{"role": "user", "content": "Name three colours of the rainbow."}]


def test_models_are_listed(chat_server: str, client: Client) -> None:
    ids = [model.id for model in client(chat_server).models.list()]
    assert {CHAT, f"{CHAT}@direct", f"{CHAT}@principles", f"{CHAT}@urial"} <= set(ids)
    assert client(chat_server).models.retrieve(CHAT).id == CHAT


@pytest.mark.together
@pytest.mark.parametrize("alignment", ["direct", "principles", "urial"])
def test_a_stream_is_the_whole_answer_in_pieces(chat_server: str, client: Client, alignment: str) -> None:
    ask: dict[str, Any] = {"model": f"{CHAT}@{alignment}", "messages": HI, "max_tokens": 24, "temperature": 0}
    api = client(chat_server).chat.completions
    whole, chunks = at_once(
        lambda: api.create(**ask),
        lambda: list(api.create(**ask, stream=True, stream_options={"include_usage": True})),
    )
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(bool(p) for p in pieces) > 5
    assert chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 5


@pytest.mark.together
def test_a_seeded_draw_after_a_prompt_read_in_pieces(chat_server: str, client: Client) -> None:
    """vLLM on a CPU dies of it; the second time the prompt comes from the cache, in one piece."""
    api = client(chat_server).chat.completions
    long: Any = [{"role": "user", "content": "Name three colours of the rainbow. " * 100}]
    drawn = [
        api.create(model=CHAT, messages=long, max_tokens=6, temperature=1, seed=3).choices[0].message.content
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.together
def test_reasoning_first(chat_server: str, client: Client) -> None:
    pipeline = [{"principles": {"mode": "cot", "max_reasoning_tokens": 12}}]
    answer = client(chat_server).chat.completions.create(
        model=CHAT,
        messages=HI,
        max_tokens=8,
        temperature=0,
        extra_body={"alignment": {"pipeline": pipeline, "trace": True}},
    )
    extra = answer.model_extra or {}
    (step,) = extra["alignment"]["trace"]
    assert step["reasoning"].startswith("Let's think about how to answer this")
    assert step["reasoning"] not in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    stages = extra["alignment"]["usage"]
    assert stages["principles"]["completion_tokens"] == 12
    assert answer.usage.completion_tokens == 20


@pytest.mark.together
def test_the_base_model_answers_under_urial(base_server: str, client: Client) -> None:
    answer = client(base_server).chat.completions.create(
        model=f"{BASE}@urial",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=200,
        extra_body={"alignment": {"trace": True}},
    )
    text = answer.choices[0].message.content or ""
    assert "Paris" in text
    assert "# Query" not in text and not text.endswith("```")
    assert (answer.model_extra or {})["alignment"]["trace"][0]["form"] == "raw"
    assert answer.usage and answer.usage.prompt_tokens > 500


@pytest.mark.together
def test_a_base_model_says_what_it_lacks(base_server: str, client: Client) -> None:
    api = client(base_server)
    with pytest.raises(
        openai.BadRequestError, match="base model without a chat template.*'urial'"
    ) as refused:
        api.chat.completions.create(model=BASE, messages=HI)
    assert (refused.value.code, refused.value.param) == ("missing_capability", "model")
    with pytest.raises(openai.BadRequestError, match="'principles' needs chat"):
        api.chat.completions.create(model=f"{BASE}@principles", messages=HI)
    assert api.completions.create(model=BASE, prompt="One, two,", max_tokens=4).choices[0].text


@pytest.mark.together
@pytest.mark.parametrize("alignment", ["direct", "urial"])
def test_a_prompt_past_the_context_is_told_with_both_lengths(
    chat_server: str, client: Client, alignment: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client(chat_server).chat.completions.create(
            model=f"{CHAT}@{alignment}", messages=[{"role": "user", "content": "word " * 9000}]
        )
    assert refused.value.code == "context_length_exceeded"
    assert "4096" in refused.value.message
    assert any(9000 < int(n) < 11_000 for n in refused.value.message.split() if n.isdecimal())


@pytest.mark.together
def test_a_clients_own_stops_work_beside_those_of_a_raw_prompt(base_server: str, client: Client) -> None:
    ask: dict[str, Any] = {"model": f"{BASE}@urial", "messages": HI, "max_tokens": 40}
    api = client(base_server).chat.completions
    answer = api.create(**ask, stop=["e", "a", "i", "o"])
    assert answer.choices[0].finish_reason == "stop"
    assert not set("eaio") & set(answer.choices[0].message.content or "")
    with pytest.raises(openai.BadRequestError, match="at most 16 items"):
        api.create(**ask, stop=list("abcdefghijklmnopqr"))


@pytest.mark.together
def test_a_raw_prompt_past_the_context(base_server: str, client: Client) -> None:
    with pytest.raises(openai.BadRequestError, match="4096") as refused:
        client(base_server).chat.completions.create(
            model=f"{BASE}@urial", messages=[{"role": "user", "content": "word " * 9000}]
        )
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.together
def test_structure_tools_and_logprobs_survive_an_alignment(chat_server: str, client: Client) -> None:
    api = client(chat_server).chat.completions
    schema = {
        "type": "object",
        "properties": {"colour": {"type": "string", "maxLength": 10}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    ask = partial(api.create, model=f"{CHAT}@principles", messages=HI)
    tool: Any = {"type": "function", "function": {"name": "paint", "parameters": schema}}
    form: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    choice: Any = {"type": "function", "function": {"name": "paint"}}
    shaped, called, several = at_once(
        partial(ask, max_tokens=40, temperature=0, response_format=form),
        partial(ask, max_tokens=200, temperature=0, tools=[tool], tool_choice=choice),
        partial(ask, max_tokens=3, n=2, seed=1, logprobs=True, top_logprobs=2),
    )
    assert set(json.loads(shaped.choices[0].message.content or "")) == {"colour"}
    (call,) = called.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "paint"
    json.loads(call.function.arguments)
    assert [len((c.logprobs and c.logprobs.content) or []) for c in several.choices] == [3, 3]


def test_clients_that_leave_stop_the_engines_work(chat_server: str) -> None:
    """Streaming and not: the count of running requests falls to 0 with less than half written of what was asked."""
    body = {"model": CHAT, "messages": HI, "max_tokens": 3500, "ignore_eos": True}

    async def leave() -> None:
        before = await _written(chat_server)
        async with httpx.AsyncClient() as http:
            url, health = f"{chat_server}/v1/chat/completions", f"{chat_server}/health"
            plain = asyncio.create_task(http.post(url, json=body))
            async with http.stream("POST", url, json={**body, "stream": True}) as response:
                pieces = response.aiter_bytes()  # which, left to itself, closes the response
                await anext(pieces)
                while (await http.get(health)).json()["running"] < 2:
                    assert not plain.done(), plain.result().text
            plain.cancel()
            while (await http.get(health)).json()["running"]:
                pass
        assert await _written(chat_server) - before < 3500

    asyncio.run(leave())


@pytest.mark.together
def test_requests_of_many_clients_share_the_engine(chat_server: str) -> None:
    """Each gets the very answer that it gets alone, under its own alignment."""
    kinds = ("direct", "principles", "urial")

    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{chat_server}/v1", api_key="x", max_retries=0) as api:

            async def answer(kind: str) -> tuple[str, str | None, int]:
                whole = await api.chat.completions.create(
                    model=f"{CHAT}@{kind}", messages=HI, max_tokens=6, temperature=0
                )
                assert whole.usage
                return whole.model, whole.choices[0].message.content, whole.usage.prompt_tokens

            alone = {kind: await answer(kind) for kind in kinds}
            assert len({tokens for _, _, tokens in alone.values()}) == 3
            together = await asyncio.gather(*(answer(kinds[i % 3]) for i in range(12)))
            assert together == [alone[kinds[i % 3]] for i in range(12)]
            assert all(text for _, text, _ in together)

    asyncio.run(ask())


def test_metrics_include_the_engines(chat_server: str) -> None:
    assert "vllm:num_requests_running" in httpx.get(f"{chat_server}/metrics").text


def test_templates_from_clients_are_refused(chat_server: str) -> None:
    for field in ({"chat_template": "x"}, {"chat_template_kwargs": {"chat_template": "x"}}):
        body = {"model": CHAT, "messages": HI, **field}
        response = httpx.post(f"{chat_server}/v1/chat/completions", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "chat_template")


def test_the_token_level(in_process: InProcess) -> None:
    """What strategies reach below the API: the same engine by token ids."""
    in_process.run(_token_level(in_process.engine, in_process.theirs))


async def _token_level(engine: Any, url: str) -> None:
    assert Capability.TOKENS in engine.capabilities
    prompt = await engine.render([{"role": "user", "content": "Is water wet? Answer yes or no."}])
    assert await engine.detokenize(await engine.tokenize("a small test")) == "a small test"
    (greedy,) = await engine.extend(Extension(prompt, max_tokens=6, temperature=0, logprobs=3))
    assert len(greedy.token_ids) == len(greedy.logprobs) == 6
    for token, step in zip(greedy.token_ids, greedy.logprobs, strict=True):
        assert step[token] == max(step.values())
    # Continuing by token ids is the same path.
    (rest,) = await engine.extend(Extension([*prompt, *greedy.token_ids[:3]], max_tokens=3, temperature=0))
    assert rest.token_ids == greedy.token_ids[3:]
    # The same seed is the same draw.
    draws = [await engine.extend(Extension(prompt, max_tokens=5, n=3, seed=11)) for _ in range(2)]
    assert [c.token_ids for c in draws[0]] == [c.token_ids for c in draws[1]]
    assert len({c.token_ids for c in draws[0]}) > 1
    # Two options scored as the next token.
    (yes, *_), (no, *_) = [await engine.tokenize(word) for word in ("Yes", "No")]
    (scored,) = await engine.extend(Extension(prompt, max_tokens=1, logprob_token_ids=[yes, no]))
    assert {yes, no} <= set(scored.logprobs[0])
    assert all(math.exp(scored.logprobs[0][t]) <= 1 for t in (yes, no))
    # In a batch with others it takes nothing from them, and a token far from likely is scored too.
    rare = (await engine.tokenize("qz"))[0]
    score = Extension(prompt, max_tokens=1, logprob_token_ids=[yes, rare])
    wide = Extension(prompt, max_tokens=6, temperature=0, logprobs=5, ignore_eos=True)
    (drawn,), *scores = await asyncio.gather(engine.extend(wide), *(engine.extend(score) for _ in range(3)))
    assert all(sum(math.isfinite(v) for v in step.values()) >= 5 for step in drawn.logprobs)
    assert all(-math.inf < s.logprobs[0][rare] < s.logprobs[0][yes] for (s,) in scores)
    # A stop string ends it and is named; an end token is the answer's end.
    (stopped,) = await engine.extend(Extension(prompt, max_tokens=200, temperature=0, stop=["."]))
    assert (stopped.finish_reason, stopped.stop) == ("stop", ".")
    open_turn = await engine.render([{"role": "assistant", "content": "Water is"}], continue_final=True)
    assert (await engine.detokenize(open_turn)).endswith("Water is")
    before = await _written(url)
    many = asyncio.gather(*(engine.extend(Extension(prompt, max_tokens=3500, ignore_eos=True)) for _ in "ab"))
    await _until(lambda: engine.running == 2)
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many
    await _until(lambda: engine.running == 0)
    assert await _written(url) - before < 3500


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - the engine has no event for it
        await asyncio.sleep(0)


async def _written(url: str) -> float:
    """Tokens that the engine has generated since its start."""
    async with httpx.AsyncClient() as http:
        lines = (await http.get(f"{url}/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total"))
