"""Whether one tenant's crowd keeps another waiting: 200 streams of a greedy one, and a modest one that asks in turn.

The modest tenant's time to the first text, alone on the server (the baseline) and beside the crowd, with admission
configured and without it. Rounds alternate. Before a fake upstream whose tokens keep to a timetable (250 ms to the
first, then 25 ms each, however many ask), and on the bundled model in vLLM, whose tokens take longer the more ask.
Run: python benchmarks/scripts/greedy.py [--only scripted|vllm] [--asks 60] [--rounds 5] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.serving import CHAT, TOPICS
from heedful.benchmarks.stats import bootstrap

HERE = Path(__file__).parent
STREAMS = 200
GREEDY, MODEST = "sk-greedy-0123456789", "sk-modest-0123456789"
# A scripted upstream has room for many at once. A model on two cores has not: what more streams take from each
# other's tokens is what the line keeps away.
ADMISSION = {
    "scripted": {"running": 64, "per_tenant": 48, "waiting": 1000},
    "vllm": {"running": 3, "per_tenant": 1, "waiting": 1000},
}
MODEL = {"scripted": "paced", "vllm": CHAT}
LENGTH = {"scripted": 64, "vllm": 24}
_SETTLE = 2.0  # seconds in which the crowd comes in


@contextmanager
def served(kind: str, admission: dict[str, int] | None) -> Iterator[str]:
    """heedful with two tenants; yields its address."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys = [
            {"tenant": tenant, "sha256": sha256(key.encode()).hexdigest()}
            for tenant, key in (("greedy", GREEDY), ("modest", MODEST))
        ]
        settings: dict[str, Any] = {"keys": keys, "tenants": {"greedy": {}, "modest": {}}}
        settings |= {"stores": str(folder / "stores"), "starter_stores": False, "admission": admission}
        if kind == "scripted":
            port = servers.free_port()
            command = [sys.executable, str(HERE / "fake_upstream.py"), str(port)]
            stack.enter_context(servers.process(command, f"http://127.0.0.1:{port}/health"))
            settings["upstreams"] = [{"url": f"http://127.0.0.1:{port}/v1", "models": ["paced"]}]
        else:
            settings |= {"model": CHAT, "engine": {"max_model_len": 2048}}
        (folder / "heedful.yaml").write_text(json.dumps(settings))  # JSON is YAML
        port = servers.free_port()
        command = [sys.executable, "-m", "heedful.server", "serve", "--config", str(folder / "heedful.yaml")]
        yield stack.enter_context(
            servers.running([*command, "--port", str(port)], f"http://127.0.0.1:{port}")
        )


async def ask(session: aiohttp.ClientSession, url: str, kind: str, key: str, number: int) -> float | None:
    """Seconds to the first text of one stream, which is read to its end; None: the server was full."""
    question = f"{number}: tell me about {TOPICS[number % len(TOPICS)]}, and why it matters."
    body = {"model": MODEL[kind], "messages": [{"role": "user", "content": question}], "stream": True}
    body |= {"max_tokens": LENGTH[kind], "temperature": 0, "ignore_eos": True}
    began, first = time.perf_counter(), None
    headers = {"authorization": f"Bearer {key}"}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
        if answer.status == 503:
            return None
        answer.raise_for_status()
        async for line in answer.content:
            if first is None and b'"content":"' in line and b'"content":""' not in line:
                first = time.perf_counter() - began
    assert first is not None
    return first


async def modest(url: str, kind: str, asks: int, *, crowd: bool) -> list[float]:
    """The modest tenant's times, one stream after the other."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def greedy(number: int) -> None:
            while True:
                number += STREAMS
                if await ask(session, url, kind, GREEDY, number) is None:
                    await asyncio.sleep(1)

        streams = [asyncio.create_task(greedy(i)) for i in range(STREAMS if crowd else 0)]
        try:
            await asyncio.sleep(_SETTLE if crowd else 0)
            times = []
            for number in range(asks):
                if (first := await ask(session, url, kind, MODEST, 10**6 + number)) is None:
                    raise SystemExit("the modest tenant was refused")
                times.append(first)
            return times
        finally:
            broken = [task.exception() for task in streams if task.done()]
            for task in streams:
                task.cancel()
            await asyncio.gather(*streams, return_exceptions=True)
            if broken:
                raise SystemExit(f"greedy: {broken[0]!r}")


def study(kind: str, asks: int, rounds: int) -> dict[str, Any]:
    """With admission and without: alone and beside the crowd."""
    rows = {}
    for name, admission in (("admission", ADMISSION[kind]), ("none", None)):
        with served(kind, admission) as url:
            asyncio.run(modest(url, kind, 3, crowd=False))  # warms up
            took: dict[str, list[float]] = {"alone": [], "beside": []}
            for i in range(rounds):
                for side in ("alone", "beside") if i % 2 else ("beside", "alone"):
                    took[side] += asyncio.run(modest(url, kind, asks // rounds, crowd=side == "beside"))
        row: dict[str, Any] = {"settings": admission}
        for side, times in took.items():
            row[side] = {f"{q}_ms": _quantile(times, int(q[1:])) for q in ("p50", "p95")}
        row["p95_ratio"] = round(row["beside"]["p95_ms"][0] / row["alone"]["p95_ms"][0], 3)
        row["raw_ms"] = {side: [round(1000 * t, 1) for t in times] for side, times in took.items()}
        rows[name] = row
        print(kind, name, {k: v for k, v in row.items() if k != "raw_ms"}, flush=True)
    return rows


def _quantile(times: list[float], percent: int) -> list[float]:
    """Milliseconds, and the interval."""
    found = bootstrap(times, lambda samples, axis: np.percentile(samples, percent, axis=axis))
    return [round(1000 * figure, 1) for figure in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(MODEL))
    parser.add_argument("--asks", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "greedy.json")
    options = parser.parse_args()
    result: dict[str, Any] = {**servers.machine(), "greedy_streams": STREAMS}
    for kind in MODEL:
        if options.only in (None, kind):
            result[kind] = study(kind, options.asks, options.rounds)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
