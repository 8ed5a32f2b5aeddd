"""What a server keeps is bounded, whatever its clients send: no container grows with the number of their requests."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fuzz_engine import FuzzEngine
from upstream_fixtures import LIMIT, Asked, Proxy, Reply, ScriptedUpstream, before, completion, streamed

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.server.engines.upstream.token_cache import TokenCache
from heedful.strategies.verifiers import toxicity

NAMES = 270  # of alignments, which fill what is kept of those
WARM, MORE = 8, 40  # requests of each kind, before and while it is measured


@pytest.fixture
def url(_upstream: ScriptedUpstream, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    stores = Stores(tmp_path_factory.mktemp("bounds"), word_embedder())
    stores.add_starters()
    with proxy(
        Config(upstreams=[before(_upstream)], alignments={"said": ["principles"]}),
        FuzzEngine(),
        stores=stores,
    ) as url:
        yield url
    stores.close()


def named(i: int) -> str:
    """An alignment that nobody has named before."""
    return "+".join("said" if i >> bit & 1 else "principles" for bit in range(9))


def requests(i: int) -> Iterator[tuple[str, str, dict[str, Any] | None, dict[str, str]]]:
    """One of every kind, with something of its own in each place that a client fills."""
    hi = [{"role": "user", "content": f"Is {i} allowed?"}]
    chat, messages = "/v1/chat/completions", "/v1/messages"
    base: dict[str, Any] = {"messages": hi, "max_tokens": 3}
    schema = {"type": "object", "properties": {f"p{i}": {"type": "string"}}}
    form = {"type": "json_schema", "json_schema": {"name": f"s{i}", "schema": schema}}
    tool = {"type": "function", "function": {"name": f"tool{i}", "parameters": schema}}

    def plan(name: str, **options: Any) -> dict[str, Any]:
        return {"pipeline": [{name: options}], "trace": True}

    bodies: list[tuple[str, dict[str, Any]]] = [
        (chat, {"model": f"made-up-{i}"}),
        (chat, {"model": f"ours@made-up-{i}"}),
        (chat, {"model": "ours@" + " " * i + "norms + principles"}),
        (
            chat,
            {"model": "ours", "alignment": "+".join(["norms"] * (1 + i % 40) + ["principles"] * (i // 40))},
        ),
        (chat, {"model": "ours", f"field{i}": i, "user": f"u{i}", "stop": [f"s{i}"], "tools": [tool]}),
        (chat, {"model": "ours", "response_format": form, "alignment": plan("refine")}),
        (chat, {"model": "ours", "alignment": plan("norms", scope=[f"scope {i}"], tags=[f"tag {i}"])}),
        (chat, {"model": "ours", "alignment": plan("norms", store=f"store{i}")}),
        (chat, {"model": "ours", "alignment": plan("norms", prompt=f"norms/p{i}")}),
        (chat, {"model": "ours", "alignment": plan(f"strategy{i}", x=1)}),
        (chat, {"model": "ours", "alignment": plan("refine", verifiers=[{"policy": {"words": [f"w{i}"]}}])}),
        (chat, {"model": "scripted", "alignment": plan("refine", verifiers=[f"verifier{i}", "toxicity"])}),
        (chat, {"model": "scripted", "alignment": plan("best_of_n", verifiers=["toxicity"]), "stream": True}),
        (chat, {"model": "scripted", "alignment": plan("demos", tags=[f"tag {i}"])}),
        (messages, {"model": "ours", "metadata": {"user_id": f"u{i}"}, "stream": True}),
        (messages + "/count_tokens", {"model": "scripted", "alignment": "norms"}),
        ("/v1/responses", {"model": "ours", "input": f"Hi {i}", "metadata": {f"m{i}": "x"}}),
        ("/v1/embeddings", {"model": "words", "input": f"some words {i}"}),
        ("/v1/alignment/score", {"model": "scripted", "answers": [f"a{i}"]}),
        ("/v1/alignment/stores/norms/search", {"query": f"q{i}", "scopes": [f"s{i}"], "tags": [f"t{i}"]}),
        (f"/v1/alignment/stores/new{i}/search", {"query": "q"}),
        (f"/v1/unknown{i}", {}),
    ]
    for path, body in bodies:
        whole = body if "stores" in path or "embed" in path or "responses" in path else {**base, **body}
        yield "POST", path, whole, {"x-request-id": f"r{i}", "openai-organization": f"o{i}", f"x-h{i}": "1"}
    if i % 10 == 0:  # a search through a tree takes its time
        searched = plan("rain", rule=f"Rule {i}.", effort="low", max_drafted_tokens=20, no_opinion="decode")
        yield "POST", chat, {**base, "model": "scripted", "alignment": searched}, {}
    yield "GET", f"/v1/models/made-up-{i}", None, {"authorization": f"Bearer key-{i}"}
    yield "GET", f"/v1/alignment/stores/norms/items/made-up-{i}", None, {}
    yield "PATCH", f"/v1/models/{i}", None, {}


# What pytest notes down of the log; timers that were cancelled, and cursors that sqlite3 clears away by the hundred.
_BOUNDED_BY_THEIR_OWNERS = (logging.LogRecord, asyncio.TimerHandle, weakref.ref)
Held = list[tuple[Any, int]]


def containers() -> Held:
    """Everything in this process that can grow, with its size now; held, so that none is taken for another later."""
    found: dict[int, Any] = {}
    gc.collect()
    for owner in gc.get_objects():
        for held in (owner, *gc.get_referents(owner)):  # what holds no objects is not tracked itself
            if isinstance(held, dict | list | set | functools._lru_cache_wrapper):
                found[id(held)] = held
    return [(held, size(held)) for held in found.values()]


def size(held: Any) -> int:
    if isinstance(held, functools._lru_cache_wrapper):
        facts = held.cache_info()
        return 0 if facts.maxsize is not None else facts.currsize
    return len(held)


def grown(before: Held, by: int) -> list[str]:
    """What has grown: its size then and now, and a sample of it."""
    told = []
    for held, then in before:
        if size(held) - then < by:
            continue
        values = [] if callable(held) else list(held.items() if isinstance(held, dict) else held)[-3:]
        if values and all(isinstance(v, _BOUNDED_BY_THEIR_OWNERS) for v in values):
            continue
        if isinstance(held, dict) and "_lru_list_elem" in str(values):
            continue  # what is in the wrapper, which knows its bound
        told.append(f"{type(held).__name__} {then} → {size(held)}: {str(values)[:300]}")
    return told


def answered(asked: Asked) -> Reply:
    text = f"An answer of its own: {len(asked.raw)}, {hash(asked.raw)}."
    return Reply.sse(*streamed(text)) if asked.body.get("stream") else Reply.json(completion(text))


def test_nothing_grows_with_what_clients_send(url: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(answered)
    with httpx.Client(base_url=url, timeout=LIMIT) as client:

        def send(numbers: range) -> set[int]:
            statuses = set()
            for i in numbers:
                for method, path, body, headers in requests(i):
                    answer = client.request(method, path, json=body, headers=headers)
                    statuses.add(answer.status_code)
                    assert answer.status_code < 500, (path, body, answer.text)
                upstream.asked.clear()
            return statuses

        for i in range(NAMES):
            hi = [{"role": "user", "content": "Hi"}]
            body = {"model": "ours", "messages": hi, "alignment": named(i)}
            assert client.post("/v1/chat/completions", json=body).status_code == 200
        assert {200, 400, 404, 405} <= send(range(NAMES, NAMES + WARM))
        told = len(client.get("/metrics").content)
        before = containers()
        send(range(NAMES + WARM, NAMES + WARM + MORE))
        # Bounded by count and by characters; test_store_waits.py has it.
        remembered = [
            id(vars(o)["_recent"])
            for o in gc.get_objects()
            if isinstance(o, Embedder) and "_recent" in vars(o)
        ]
        before = [(held, then) for held, then in before if id(held) not in remembered]
        assert not (seen := grown(before, MORE // 2)), "\n".join(seen)
        # Labels of metrics that a client could make up would show as lines.
        assert len(client.get("/metrics").content) < told + 2000


def test_token_ids_are_bounded_by_tokens_and_by_characters() -> None:
    cache = TokenCache()
    for i in range(2500):
        cache.put(f"{i} " + "x" * 8000, False, [])  # an upstream that counts no token in anything
    assert cache.characters <= 8_000_000 and len(cache._kept) < 1000
    assert cache.characters == sum(len(text) for text, _ in cache._kept)


def test_long_sentences_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    before = toxicity._kept_score.cache_info().currsize
    long = "word " * 2000
    assert (toxicity._score(long) == toxicity._score(long)).all()
    assert toxicity._kept_score.cache_info().currsize == before


def test_a_cache_without_bound_would_be_seen() -> None:
    numbers, ours, count = {"a": 1}, [object()], functools.cache(json.dumps)
    before = containers()
    for i in range(100):
        numbers[str(i)] = i
        ours.append(object())
        count(str(i))
    seen = grown(before, 75)
    assert [s.split(" ")[0] for s in sorted(seen)] == ["_lru_cache_wrapper", "dict", "list"], seen
