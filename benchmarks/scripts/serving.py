"""What heedful's direct path costs against vLLM's own server, and what URIAL's shared prefix saves.

Both servers run at once on the bundled model and are measured in turn, round by round, so that a machine whose speed
drifts drifts for both. Run: python benchmarks/scripts/serving.py [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp

from heedful.benchmarks.scripts import servers

CHAT, BASE = "smollm2-135m-instruct", "gemma-3-270m"
LENGTH = 64  # tokens per answer
TOPICS = "bread rain trains maps bees glass rivers clocks paper wool chess salt moss kites ink tides".split()


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[float, int]:
    """Seconds to the first text, and the tokens of the answer."""
    started, first, tokens = time.perf_counter(), None, 0
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            if first is None and b'"content":"' in line and b'"content":""' not in line:
                first = time.perf_counter() - started
            if b'"choices":[]' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
    assert first is not None and tokens
    return first, tokens


async def load(url: str, concurrency: int, seed: int) -> tuple[list[float], float]:
    """One burst of `concurrency` streams: times to first text, and tokens per second of them all."""
    bodies = [
        {
            "model": CHAT,
            "messages": [
                {
                    "role": "user",
                    "content": f"{seed}-{i}: tell me about {TOPICS[i % len(TOPICS)]}, and why it matters.",
                }
            ],
            "max_tokens": LENGTH,
            "ignore_eos": True,
            "temperature": 0,
        }
        for i in range(concurrency)
    ]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        results = await asyncio.gather(*(stream(session, url, body) for body in bodies))
        elapsed = time.perf_counter() - started
    return [first for first, _ in results], sum(tokens for _, tokens in results) / elapsed


def direct_path(rounds: int) -> list[dict[str, Any]]:
    """heedful and vLLM at each concurrency."""
    rows = []
    with ExitStack() as stack:
        urls = {
            "heedful": stack.enter_context(servers.heedful(CHAT, "--max-model-len", "4096")),
            "vllm": stack.enter_context(servers.vllm(CHAT, "--max-model-len", "4096")),
        }
        for concurrency in (1, 8, 32):
            rows.append(in_turn(urls, concurrency, rounds))
            print({k: v for k, v in rows[-1].items() if k != "raw"}, flush=True)
    return rows


def in_turn(urls: dict[str, str], concurrency: int, rounds: int) -> dict[str, Any]:
    """heedful and vLLM in turn; medians over rounds, ratios heedful / vLLM. `urls`: of the two, by name."""
    first: dict[str, list[float]] = {name: [] for name in urls}
    rate: dict[str, list[float]] = {name: [] for name in urls}
    # Single streams are short, so more of them; a round before the count lets kernels and caches settle.
    bursts = rounds * (4 if concurrency == 1 else 1)
    for i in range(-1, bursts):
        for name in urls if i % 2 else reversed(urls):
            times, speed = asyncio.run(load(urls[name], concurrency, seed=1000 * concurrency + i))
            if i >= 0:
                first[name].append(statistics.median(times))
                rate[name].append(speed)
    row: dict[str, Any] = {"concurrency": concurrency, "bursts": bursts}
    for name in urls:
        row[f"{name}_tokens_per_s"] = round(statistics.median(rate[name]), 1)
        row[f"{name}_first_ms"] = round(1000 * statistics.median(first[name]), 1)
    # Pair by pair, so that a slow moment of the machine counts for both.
    row["tokens_ratio"] = round(
        statistics.median(a / b for a, b in zip(rate["heedful"], rate["vllm"], strict=True)), 3
    )
    row["first_ratio"] = round(
        statistics.median(a / b for a, b in zip(first["heedful"], first["vllm"], strict=True)), 3
    )
    return row | {"raw": {"first_s": first, "tokens_per_s": rate}}


async def urial(url: str, model: str) -> dict[str, Any]:
    """Time to first text of the first URIAL request and of later ones with other questions."""
    times = []
    async with aiohttp.ClientSession() as session:
        for topic in ("bread", "rain", "trains", "maps", "bees"):
            body = {
                "model": f"{model}@urial",
                "messages": [{"role": "user", "content": f"Tell me about {topic}."}],
                "max_tokens": 8,
            }
            times.append((await stream(session, url, body))[0])
    later = statistics.median(times[1:])
    return {
        "model": model,
        "first_request_ms": round(times[0] * 1000, 1),
        "later_requests_ms": round(later * 1000, 1),
        "second_to_first": round(times[1] / times[0], 3),
    }


def shared_prefix() -> list[dict[str, Any]]:
    """URIAL on each bundled model."""
    rows = []
    for model in (CHAT, BASE):
        with servers.heedful(model, "--max-model-len", "4096") as url:
            rows.append(asyncio.run(urial(url, model)))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "serving.json")
    options = parser.parse_args()
    result = {**servers.machine(), "direct": direct_path(options.rounds), "urial": shared_prefix()}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
