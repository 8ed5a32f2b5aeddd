"""How many calls a request costs at a remote engine, and how many of them wait for one another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from inspect import CORO_CLOSED, getcoroutinestate
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstream_fixtures import LIMIT, Asked, Proxy, Reply, ScriptedUpstream, before, completion

from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.server.engines.upstream.token_cache import TokenCache
from heedful.strategies.tasks import SOME, together

HI: Any = [{"role": "user", "content": "Which rules hold here?"}]
CLIENT = httpx.Client(timeout=LIMIT)


class Tokens:
    """A vLLM's token level whose tokens are bytes. The calls of a kind are held until `batch` of it are there."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.batch: dict[str, int] = {}
        self._full: dict[str, asyncio.Event] = {}
        self.fails = ""

    async def __call__(self, asked: Asked) -> Reply:
        body = asked.body
        kind = asked.path.rpartition("/")[2]
        if kind == "tokenize":
            kind = "render" if "messages" in body else "tokenize"
        elif body.get("allowed_token_ids"):
            kind = "allowed"
        self.calls[kind] += 1
        self.now[kind] += 1
        self.most[kind] = max(self.most[kind], self.now[kind])
        full = self._full.setdefault(kind, asyncio.Event())
        if self.most[kind] >= self.batch.get(kind, 0):
            full.set()
        await asyncio.wait_for(full.wait(), LIMIT)
        self.now[kind] -= 1
        return self._answer(kind, body)

    def _answer(self, kind: str, body: Any) -> Reply:
        if kind == "render":
            return Reply.json({"tokens": list(b"<s>Which rules hold here?</s>")})
        if kind == "tokenize":
            if self.fails and self.fails in body["prompt"]:
                return Reply.json({"error": {"message": "no such text"}}, status=400)
            return Reply.json({"tokens": list(body["prompt"].encode())})
        if kind == "detokenize":
            return Reply.json({"prompt": bytes(body["tokens"]).decode()})
        if body.get("prompt_logprobs") is not None:
            choices = [
                {"index": i, "prompt_logprobs": [{str(t): {"logprob": -1.0}} for t in ids]}
                for i, ids in enumerate(body["prompt"])
            ]
            return Reply.json({"choices": choices})
        if "return_token_ids" in body:
            token = (body.get("allowed_token_ids") or [7])[0]
            name = f"token_id:{token}"
            logprobs = {"tokens": [name], "token_logprobs": [-1.0], "top_logprobs": [{name: -1.0}]}
            choice = {"index": 0, "text": "x", "token_ids": [token], "finish_reason": "length"}
            return Reply.json({"choices": [{**choice, "logprobs": logprobs}]})
        return Reply.json(completion())


@pytest.fixture
def tokens(upstream: ScriptedUpstream) -> Tokens:
    made = Tokens()
    upstream.answers(made)
    return made


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path, word_embedder(dimension=256))
    for kind in ("norms", "demos"):
        stores.create(kind)
    stores.get("norms").add([Item(f"Rule {i} holds here.", id=f"n{i}") for i in range(40)])
    stores.get("demos").add(
        [Item(f"Which rules hold in {i}?", answer="All.", kind="demo", id=f"d{i}") for i in range(40)]
    )
    yield stores
    stores.close()


def vllm(upstream: ScriptedUpstream) -> Config:
    able = ["chat", "completion", "prefill", "logprobs", "tokens"]
    models = {"ours": {"name": "theirs", "end_tokens": [0], "context_length": 100_000}}
    return Config(upstreams=[before(upstream, models=models, capabilities=able)])


def score(url: str, answers: list[str]) -> httpx.Response:
    body = {"model": "ours", "messages": HI, "answers": answers}
    return CLIENT.post(f"{url}/v1/alignment/score", json=body)


def test_scoring_64_answers(upstream: ScriptedUpstream, proxy: Proxy, tokens: Tokens) -> None:
    """Three calls an answer, all in a row, it was."""
    tokens.batch["tokenize"] = SOME
    with proxy(vllm(upstream)) as url:
        response = score(url, [f"answer {i}" for i in range(64)])
        assert [a["tokens"] for a in response.json()["answers"]] == [8] * 10 + [9] * 54
        assert tokens.calls == {"render": 1, "detokenize": 1, "tokenize": 65, "completions": 1}
        assert tokens.most["tokenize"] == SOME
        score(url, [f"answer {i}" for i in range(64)])
        assert tokens.calls["tokenize"] == 65  # they are known now


def test_the_first_failure_ends_the_others(upstream: ScriptedUpstream, proxy: Proxy, tokens: Tokens) -> None:
    tokens.fails = "answer 3."
    with proxy(vllm(upstream)) as url:
        response = score(url, [f"answer {i}." for i in range(64)])
        assert response.status_code == 400 and response.json()["error"]["message"] == "no such text"
        assert tokens.calls["tokenize"] < 64 and not tokens.calls["completions"]
        assert score(url, ["fine"]).status_code == 200


@pytest.mark.parametrize(
    ("step", "texts"),
    [({"norms": {"k": 40, "max_tokens": 5000}}, 40), ({"demos": {"k": 40, "budget": 5000}}, 40)],
)
def test_norms_and_demonstrations_are_counted_together(
    upstream: ScriptedUpstream, proxy: Proxy, tokens: Tokens, shelf: Stores, step: Any, texts: int
) -> None:
    tokens.batch["tokenize"] = SOME
    with proxy(vllm(upstream), stores=shelf) as url:
        body = {"model": "ours", "messages": HI, "alignment": {"pipeline": [step], "trace": True}}
        got = [CLIENT.post(f"{url}/v1/chat/completions", json=body).json() for _ in range(2)]
    used = [g["alignment"]["trace"][0]["used"] for g in got]
    assert len(used[0]) == texts and used[0] == used[1]
    assert tokens.calls["tokenize"] == texts and tokens.most["tokenize"] == SOME


def test_a_choice_asks_for_everything_at_once(
    upstream: ScriptedUpstream, proxy: Proxy, tokens: Tokens
) -> None:
    """A verdict in three rounds: prompt and options, the likeliest tokens, the options that are not among them."""
    tokens.batch |= {"render": 1, "tokenize": 2, "allowed": 2}
    wish = {"pipeline": [{"best_of_n": {"n": 1, "verifiers": ["self"]}}]}
    with proxy(vllm(upstream)) as url:
        body = {"model": "ours", "messages": HI, "alignment": wish}
        assert CLIENT.post(f"{url}/v1/chat/completions", json=body).status_code == 200
    assert tokens.most["tokenize"] == tokens.most["allowed"] == 2


def test_what_is_known_of_texts_is_bounded_and_grows_old() -> None:
    now = [0.0]
    cache = TokenCache(lambda: now[0])
    for i in range(3000):
        cache.put(f"text {i}", False, range(1000))
        assert cache.tokens <= 500_000
    assert cache.get("text 0", False) is None and len(cache.get("text 2999", False) or ()) == 1000
    assert cache.get("text 2999", True) is None
    cache.put("x" * 10_000, False, [1])
    assert cache.get("x" * 10_000, False) is None
    now[0] = 601.0
    before = cache.tokens
    assert cache.get("text 2999", False) is None and cache.tokens == before - 1001


async def test_together_has_a_bound_and_leaves_nothing_behind() -> None:
    running = most = begun = 0
    gate = asyncio.Event()

    async def work(i: int) -> int:
        nonlocal running, most, begun
        begun += 1
        running += 1
        most = max(most, running)
        if most == 3:
            gate.set()
        try:
            await gate.wait()
            await asyncio.sleep(0)
            if i == 99:
                raise ValueError("no")
        finally:
            running -= 1
        return i

    assert await together((work(i) for i in range(20)), 3) == list(range(20))
    assert most == 3
    begun = 0
    with pytest.raises(ValueError):
        await together((work(i) for i in (99, *range(20))), 3)
    assert running == 0 and begun < 21


async def test_what_never_began_is_closed_though_cancelled_twice() -> None:
    """A second cancellation comes while what has begun still ends."""
    ending, go = asyncio.Event(), asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            while not go.is_set():
                with suppress(asyncio.CancelledError):
                    await go.wait()

    async def later() -> None:
        raise AssertionError("it never begins")

    waiting = later()
    task = asyncio.ensure_future(together((slow_to_end(), waiting), 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await ending.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert getcoroutinestate(waiting) == CORO_CLOSED
