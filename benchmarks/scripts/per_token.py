"""What a streamed token costs on its way from engine to socket: our own work, without a model and without HTTP.

An engine that has its tokens ready, and one that gives each a turn of the event loop, as a real one does; read as
they are, through the pipeline (`direct`), and through the whole ASGI application. Figures are CPU time: the least of
a round's repeats, since other work on the machine only adds to it, and of all rounds the median. With `--beside`
another checkout is measured in turn, under its folder's name. With `--tokenizer`, what it costs to count a prompt, as
strategies that look for room do.

Run: python per_token.py [--rounds N] [--beside CHECKOUT] [--tokenizer FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from statistics import median
from typing import Any

from heedful.benchmarks.machine import machine
from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.service import Service
from heedful.strategies import Call, ChatRequest, Chunk, Event, Finish, Resources, Run, Usage
from heedful.strategies.scripted import ScriptedEngine

TOKENS = 20_000
REPEATS = 5
OURS = Path(__file__).resolve().parents[2]
MESSAGES: list[dict[str, str]] = [{"role": "user", "content": "Hi"}]
LINE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": " word"}, "logprobs": None, "finish_reason": None}],
    }
).encode()


class Reel(ScriptedEngine):
    """Writes the same token again and again; `turns`: each comes in a turn of the event loop of its own."""

    def __init__(self, *, turns: bool) -> None:
        super().__init__(model="m")
        self._turns = turns

    async def chat(self, call: Call) -> AsyncGenerator[Event, None]:
        for _ in range(TOKENS):
            if self._turns:
                await asyncio.sleep(0)
            yield Chunk.from_json(LINE)
        yield Finish(Usage(1, TOKENS))


async def drained(events: AsyncGenerator[Event, None]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass


def ways(engine: Reel) -> dict[str, Callable[[], Awaitable[None]]]:
    """The same answer, read at three places of its way."""
    alignments = Alignments(Config(), Resources(Prompts()))
    app = create_app(Service(Config(), {engine.model: engine}, alignments))
    plan = alignments.resolve("direct")
    request = ChatRequest("m", tuple(MESSAGES), {}, stream=True)
    body = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def through_the_app() -> None:
        sent = 0
        asked = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return asked.pop() if asked else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            nonlocal sent
            sent += bool(message.get("body"))

        await app({**scope}, receive, send)
        assert sent == TOKENS + 1, sent

    return {
        "engine alone": lambda: drained(engine.chat(Call(tuple(MESSAGES), {}, stream=True))),
        "pipeline": lambda: drained(plan.stream(request, Run(engine, alignments.resources))),
        "application": through_the_app,
    }


async def measured() -> dict[str, float]:
    """Microseconds of CPU time per token."""
    figures: dict[str, list[float]] = {}
    for turns in (False, True):
        read = ways(Reel(turns=turns))
        for _ in range(REPEATS):
            for name, way in read.items():
                began = time.process_time()
                await way()
                passed = (time.process_time() - began) / TOKENS * 1e6
                figures.setdefault(f"{name}, {'a turn each' if turns else 'ready'}", []).append(passed)
    return {name: min(each) for name, each in figures.items()}


def counting(folder: Path) -> dict[int, float]:
    """Microseconds of CPU time per token to write out a conversation and to tokenise it, by the prompt's length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = tokenizer.encode((OURS / "README.md").read_text())
    figures: dict[int, float] = {}
    for length in (100, 500, 2000):
        turn = [{"role": "user", "content": tokenizer.decode(words[:length])}]
        passed = []
        for _ in range(20):
            began = time.process_time()
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            count = len(tokenizer.encode(text, add_special_tokens=False))
            passed.append((time.process_time() - began) / count * 1e6)
        figures[length] = round(median(passed), 2)
    return figures


def once(checkout: Path) -> dict[str, float]:
    """One round in a process of its own, with a checkout's code."""
    ran = subprocess.run(
        [sys.executable, __file__, "--once"],
        env={**os.environ, "PYTHONPATH": str(checkout / ".links")},
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(ran.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--once", action="store_true", help="one round, as JSON; for this script itself")
    args = parser.parse_args()
    if args.once:
        import uvloop

        print(json.dumps(uvloop.run(measured())))
        return
    checkouts = {"this": OURS}
    if args.beside:
        checkouts[args.beside.resolve().name] = args.beside.resolve()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for i in range(args.rounds):
        for name, checkout in checkouts.items():
            rounds[name].append(once(checkout))
        print(f"round {i + 1} of {args.rounds}", file=sys.stderr)
    figures = {
        name: {way: round(median(each[way] for each in found), 3) for way in found[0]}
        for name, found in rounds.items()
    }
    for way in figures["this"]:
        told = "   ".join(
            f"{name} {each[way]:6.2f} us {1e6 / each[way]:10,.0f} tokens/s" for name, each in figures.items()
        )
        print(f"{way:28} {told}")
    facts = {"tokens": TOKENS, "repeats": REPEATS, "rounds": args.rounds}
    result = {"machine": machine(), **facts, "microseconds_per_token": figures}
    if args.tokenizer:
        result["microseconds_per_counted_token"] = counting(args.tokenizer)
        print(f"counting a prompt: {result['microseconds_per_counted_token']} us a token, by its length")
    if args.json:
        args.json.write_text(json.dumps({**result, "each_round": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
