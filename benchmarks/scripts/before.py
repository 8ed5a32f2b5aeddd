"""What a change costs: this checkout beside another one, as a proxy and on vLLM, both servers at once.

As a proxy, by the processor time of the server's threads per request, which another program's work changes little,
where requests per second on two cores are decided by it. On vLLM, by tokens per second and time to the first text.
Blocks alternate, ratios are of neighbours, and intervals are by bootstrap over them.
Run: python benchmarks/scripts/before.py CHECKOUT [--blocks 150] [--requests 300] [--bursts 12] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from heedful.benchmarks.scripts import servers, serving
from heedful.benchmarks.scripts.proxy import Contestant
from heedful.benchmarks.stats import bootstrap

HERE = Path(__file__).parent
SIDES = ("now", "before")
SHAPES = {"whole": ("fake", False), "stream": ("fake", True), "principles": ("fake@principles", False)}
AT_ONCE = 16


@contextmanager
def packages(checkout: Path) -> Iterator[dict[str, str]]:
    """The environment in which `heedful` is that checkout's, with this one's installed packages."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "heedful")
        home.mkdir()
        for package in ("server", "retrieval", "strategies", "prompts", "benchmarks"):
            (home / package).symlink_to(checkout.resolve() / package)
        yield {"PYTHONPATH": folder}


def processor_us(process: subprocess.Popen[bytes]) -> float:
    """What the threads of one process have computed so far, in microseconds."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1000


def proxies(sides: dict[str, dict[str, str]], blocks: int, requests: int) -> dict[str, Any]:
    """Processor microseconds per request, by shape."""
    with ExitStack() as stack:
        port = servers.free_port()
        upstream = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(HERE / "fake_upstream.py"), str(port)]
        stack.enter_context(servers.process(command, f"{upstream}/health"))
        asked = {}
        for side, environment in sides.items():
            port = servers.free_port()
            command = [sys.executable, "-m", "heedful.server", "serve", "--upstream", f"{upstream}/v1"]
            command += ["--model", "fake", "--port", str(port)]
            url = f"http://127.0.0.1:{port}"
            process = stack.enter_context(servers.process(command, f"{url}/health", environment))
            asked[side] = Contestant(url, "fake", process)
        rows: dict[str, Any] = {}
        for shape, (model, stream) in SHAPES.items():
            took: dict[str, list[float]] = {side: [] for side in sides}
            for block in range(-1, blocks):
                for side in SIDES if block % 2 else reversed(SIDES):
                    target = asked[side]
                    started = processor_us(target.process)
                    options = (
                        "--concurrency",
                        AT_ONCE,
                        "--requests",
                        requests,
                        "--seconds",
                        60,
                        "--warm-up",
                        0,
                    )
                    run = target.load(*options, stream=stream, model=model)
                    if run["errors"] or run["requests"] < requests:
                        raise SystemExit(f"{side}, {shape}: {run}")
                    if block >= 0:  # the block before the count warms both up
                        took[side].append((processor_us(target.process) - started) / run["requests"])
            rows[shape] = _compared(took, "us")
            print(shape, _told(rows[shape]), flush=True)
    return rows


def engines(sides: dict[str, dict[str, str]], bursts: int) -> list[dict[str, Any]]:
    """Tokens per second and time to the first text of the real engine behind both."""
    rows = []
    with ExitStack() as stack:
        urls = {}
        for side, environment in sides.items():
            port = servers.free_port()
            command = [sys.executable, "-m", "heedful.server", "serve", serving.CHAT, "--port", str(port)]
            urls[side] = f"http://127.0.0.1:{port}"
            options = ["--max-model-len", "4096"]
            stack.enter_context(servers.process([*command, *options], f"{urls[side]}/health", environment))
        for concurrency in (1, 8, 32):
            first: dict[str, list[float]] = {side: [] for side in sides}
            rate: dict[str, list[float]] = {side: [] for side in sides}
            for i in range(-1, bursts * (4 if concurrency == 1 else 1)):
                for side in SIDES if i % 2 else reversed(SIDES):
                    times, speed = asyncio.run(
                        serving.load(urls[side], concurrency, seed=1000 * concurrency + i)
                    )
                    if i >= 0:
                        first[side].append(1000 * statistics.median(times))
                        rate[side].append(speed)
            row = {"tokens": _compared(rate, "per_s"), "first": _compared(first, "ms")}
            rows.append({"concurrency": concurrency, **row})
            print(concurrency, {k: _told(v) for k, v in row.items()}, flush=True)
    return rows


def _compared(figures: dict[str, list[float]], unit: str) -> dict[str, Any]:
    """Medians of both sides, and the median ratio now / before of neighbours with its interval."""
    ratios = [now / before for now, before in zip(figures["now"], figures["before"], strict=True)]
    ratio, low, high = (round(figure, 3) for figure in bootstrap(ratios, statistic=np.median))
    medians = {f"{side}_{unit}": round(statistics.median(figures[side]), 1) for side in SIDES}
    raw = {side: [round(figure, 2) for figure in figures[side]] for side in SIDES}
    return {**medians, "ratio": ratio, "interval": [low, high], "raw": raw}


def _told(compared: dict[str, Any]) -> dict[str, Any]:
    return {name: figure for name, figure in compared.items() if name != "raw"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", choices=["proxy", "vllm"])
    parser.add_argument("--blocks", type=int, default=150)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--bursts", type=int, default=12)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "before.json")
    options = parser.parse_args()
    with packages(HERE.parents[1]) as now, packages(options.checkout) as before:
        sides = {"now": now, "before": before}
        result = {**servers.machine(), "checkout": _commit(options.checkout)}
        if options.only != "vllm":
            result["proxy, processor time per request"] = proxies(sides, options.blocks, options.requests)
        if options.only != "proxy":
            result["vllm"] = engines(sides, options.bursts)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}")


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
