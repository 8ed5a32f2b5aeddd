"""heedful over a scripted engine with every capability, and before one upstream: what the soak asks hardest.

Run: python soak_server.py PORT UPSTREAM_URL FOLDER
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import uvicorn
import uvloop

from heedful.prompts import Prompts
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.edge.listening import uvicorn_config
from heedful.server.engines.served import ServedModel
from heedful.server.engines.upstream import start as upstreams
from heedful.server.engines.upstream.settings import UpstreamConfig, UpstreamModel
from heedful.server.service import Service
from heedful.strategies import Call, Resources
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

WORDS = "the cat sat on a warm mat and thought about bread while rain fell outside".split()
PAUSE = 0.002  # seconds between two pieces, so that clients can leave in the middle


def step(tokens: Sequence[int]) -> Mapping[int, float]:
    """Any letter, by the last three tokens; a judge's letters where it is asked for them."""
    if bytes(tokens[-2:]) == b"(" or bytes(tokens).endswith(b"is: ("):
        return {ord("A"): 0.6, ord("B"): 0.4}
    dice = random.Random(str(list(tokens[-3:])))
    return {**{letter: dice.random() for letter in b"abcdefg ,."}, 0: 0.3}


async def reply(call: Call) -> list[str]:
    """Sometimes what a judge says, sometimes some words; never at once."""
    await asyncio.sleep(PAUSE)
    if call.params.get("max_tokens") == 1:
        return [random.choice(["Yes", "No"])]
    return [f"{word} " for word in random.choices(WORDS, k=random.randint(1, 40))] + ["."]


async def main(port: int, upstream: str, folder: Path) -> None:
    config = Config(
        port=port,
        upstreams=[
            UpstreamConfig(
                url=upstream,
                models={"faulty": UpstreamModel()},
                capabilities=["chat", "completion"],
                retries=1,
            )
        ],
        request_timeout=20,
        fallbacks={},
    )
    stores = Stores(folder, word_embedder())
    stores.add_starters()
    async with AsyncExitStack() as stack:
        remote = await upstreams.start(config.upstreams, stack, client_keys=True)
        model = ScriptedModel(step)
        engine = ScriptedEngine(reply, extend=model, score=model.score)
        alignments = Alignments(config, Resources(prompts=Prompts(), stores=stores))
        engines: list[ServedModel] = [engine, *remote]
        service = Service(config, {e.model: e for e in engines}, alignments)
        forget = asyncio.create_task(_forget(engine))
        try:
            with socket.create_server(("127.0.0.1", port)) as listener:
                await uvicorn.Server(uvicorn_config(create_app(service), config)).serve([listener])
        finally:
            forget.cancel()
            stores.close()


async def _forget(engine: ScriptedEngine) -> None:
    """The engine's record of what it was asked is a test's, and would be all that grows."""
    while True:
        await asyncio.sleep(1)
        for record in (engine.calls, engine.extensions, engine.scored):
            record.clear()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
