"""What a remote engine's distance costs: calls and time of requests whose token level is 20 ms away.

Everything but the distance is instant: an upstream in this process whose tokens are bytes, and a small store.
Run: python benchmarks/scripts/round_trips.py [--delay 0.02]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from aiohttp import web

from heedful.benchmarks.machine import machine
from heedful.prompts import Prompts
from heedful.retrieval import Item
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.config import Config
from heedful.server.engines.upstream import start as upstreams
from heedful.strategies import ChatRequest, Plan, Resources, Run, collect
from heedful.strategies.likelihood import log_likelihoods
from heedful.strategies.types import Context

CHAT = ChatRequest("m", ({"role": "user", "content": "Which rules hold here?"},))
PLANS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "norms, 40": [("norms", {"k": 40, "max_tokens": 5000})],
    "demos, 40": [("demos", {"k": 40, "budget": 5000})],
    "one verdict (self)": [("best_of_n", {"n": 1, "verifiers": ["self"]})],
}


class Far:
    """The upstream; counts its calls."""

    def __init__(self, delay: float) -> None:
        self.delay, self.calls = delay, 0

    async def __call__(self, request: web.Request) -> web.Response:
        self.calls += 1
        body = await request.json()
        await asyncio.sleep(self.delay)
        return web.json_response(self._answer(request.path, body))

    def _answer(self, path: str, body: Any) -> Any:
        if path == "/tokenize":
            return {"tokens": list(body.get("prompt", "<s>a</s>").encode())}
        if path == "/detokenize":
            return {"prompt": bytes(body["tokens"]).decode()}
        if body.get("prompt_logprobs") is not None:
            steps = ([{str(t): {"logprob": -1.0}} for t in ids] for ids in body["prompt"])
            return {"choices": [{"index": i, "prompt_logprobs": s} for i, s in enumerate(steps)]}
        if "return_token_ids" in body:
            token = (body.get("allowed_token_ids") or [7])[0]
            name = f"token_id:{token}"
            logprobs = {"tokens": [name], "token_logprobs": [-1.0], "top_logprobs": [{name: -1.0}]}
            choice = {"index": 0, "text": "x", "token_ids": [token], "finish_reason": "length"}
            return {"choices": [choice | {"logprobs": logprobs}]}
        message = {"role": "assistant", "content": "All."}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


async def measure(delay: float, folder: Path) -> dict[str, Any]:
    far = Far(delay)
    async with AsyncExitStack() as stack:
        app = web.Application()
        app.router.add_post("/{path:.*}", far)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        able = ["chat", "completion", "prefill", "logprobs", "tokens"]
        models = {"m": {"end_tokens": [0], "context_length": 100_000}}
        remote = {"url": f"http://127.0.0.1:{port}/v1", "models": models, "capabilities": able}
        config = Config.model_validate({"upstreams": [remote]})
        (engine,) = await upstreams.start(config.upstreams, stack, client_keys=False)
        stores = Stores(folder, word_embedder(dimension=256))
        stack.callback(stores.close)
        for kind in ("norms", "demos"):
            stores.create(kind)
        stores.get("norms").add([Item(f"Rule {i} holds here.") for i in range(40)])
        stores.get("demos").add(
            [Item(f"Which rules hold in {i}?", answer="All.", kind="demo") for i in range(40)]
        )
        resources = Resources(Prompts(), stores)
        found: dict[str, Any] = {}

        async def timed(name: str, times: int, work: Any) -> None:
            for again in range(times):
                far.calls, began = 0, time.perf_counter()
                await work()
                told = {"calls": far.calls, "seconds": round(time.perf_counter() - began, 3)}
                found[name + (", again" if again else "")] = told

        answers = [f"answer {i}" for i in range(64)]
        await timed("64 scores", 2, lambda: log_likelihoods(Context.of(CHAT), answers, engine))
        for name, steps in PLANS.items():
            plan = Plan.of(name, steps, resources)
            await timed(name, 2, lambda plan=plan: collect(plan.stream(CHAT, Run(engine, resources))))
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.02)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(options.delay, Path(folder)))
    json.dump({**machine(), "delay": options.delay, "requests": found}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
