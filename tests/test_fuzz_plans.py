"""Random plans in random requests, over an engine of our own and over an upstream: no answer is a fault of ours.

HEEDFUL_FUZZ_PLANS: how many requests (default 400). HEEDFUL_FUZZ_SEED: the first one's seed (default 0).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from fuzz_engine import FuzzEngine
from random_plans import Plans, fault, reply
from upstream_fixtures import LIMIT, Asked, Proxy, Reply, ScriptedUpstream, before, completion, streamed

from heedful.prompts import Prompts
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config

CASES = int(os.environ.get("HEEDFUL_FUZZ_PLANS", "400"))
FIRST = int(os.environ.get("HEEDFUL_FUZZ_SEED", "0"))
MODELS = ("scripted", "ours", "claims")
SHARES = 4


@pytest.fixture(scope="module")
def url(_upstream: ScriptedUpstream, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    stores = Stores(tmp_path_factory.mktemp("plans"), word_embedder())
    stores.add_starters()
    config = Config(
        upstreams=[
            before(_upstream),
            # Says that it reports log-probabilities, and never does.
            before(_upstream, models={"claims": "theirs"}, capabilities=["chat", "completion", "logprobs"]),
        ]
    )
    with proxy(config, FuzzEngine(), stores=stores) as url:
        yield url
    stores.close()


def says(asked: Asked) -> Reply:
    if asked.path.endswith("/count_tokens"):
        return Reply.json({"input_tokens": 3})
    text = reply(asked.raw.decode())
    if asked.path.endswith("/chat/completions"):
        return Reply.sse(*streamed(text)) if asked.body.get("stream") else Reply.json(completion(text))
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    body = {"id": "c", "object": "text_completion", "created": 1, "model": "theirs", "choices": [choice]}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    if not asked.body.get("stream"):
        return Reply.json({**body, "usage": usage})
    return Reply.sse(b"data: " + httpx.Response(200, json=body).content + b"\n\n", b"data: [DONE]\n\n")


@pytest.mark.parametrize("share", range(SHARES))
def test_random_plans(share: int, url: str, upstream: ScriptedUpstream) -> None:
    upstream.answers(says)
    about = httpx.get(f"{url}/v1/alignment").json()
    plans = Plans(about, prompts=Prompts().names(), stores=("norms", "demos"), models=MODELS)
    told: Counter[tuple[str, int]] = Counter()
    faults: dict[int, str] = {}
    with httpx.Client(base_url=url, timeout=LIMIT) as client:
        for seed in range(FIRST + share, FIRST + CASES, SHARES):
            asked = plans.request(seed)
            answer = client.post(asked.path, json=asked.body)
            told[asked.body["model"], answer.status_code] += 1
            if found := fault(answer.status_code, answer.text, asked.streams):
                faults[seed] = f"{answer.status_code} {found}\n    {asked}"
    print(dict(sorted(told.items())))
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(
        f"{s}: {f}" for s, f in list(faults.items())[:20]
    )
    # A fuzzer whose every request is refused finds nothing.
    assert all(told[model, 200] for model in MODELS)
