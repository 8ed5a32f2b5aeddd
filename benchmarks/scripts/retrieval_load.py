"""A server's stores under load: 200 searches a second and 5 writes a second over HTTP, embedding included.

The store is the one that `retrieval_scale.py build` made. Searches are open-loop (sent at their time, whatever the
earlier ones do; a latency counts from that time); one in three has a filter. `--distinct` is among how many different
questions they are drawn (0: none is ever asked twice, so that each is embedded). The load generator runs on the same
machine, in a process of its own.

    python benchmarks/scripts/retrieval_load.py --folder DIR [--rate 200] [--seconds 60] [--distinct 0] [--runs 1]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from heedful.benchmarks.scripts import servers

WARM_UP = 5  # seconds that are not counted
STORE = "scale"


def serve(folder: Path, port: int) -> None:
    """heedful's own application with the stores of `folder`, and a model that nobody asks."""
    import uvicorn

    from heedful.prompts import Prompts
    from heedful.retrieval.embedding.embedder import load
    from heedful.retrieval.store.stores import Stores
    from heedful.server.alignments import Alignments
    from heedful.server.app import create_app
    from heedful.server.config import Config
    from heedful.server.service import Service
    from heedful.strategies import Resources
    from heedful.strategies.scripted import ScriptedEngine

    stores = Stores(folder, load(device="cpu", threads=1))
    stores.open_all(lambda step, share: None)
    config = Config()
    alignments = Alignments(config, Resources(Prompts(), stores))
    app = create_app(Service(config, {"none": ScriptedEngine(model="none")}, alignments))
    gc.collect()
    gc.freeze()  # as `heedful serve` does
    uvicorn.run(app, port=port, log_level="warning", access_log=False, http="httptools", loop="uvloop")


def cpu_seconds(process: psutil.Process) -> float:
    """What a process has computed for, its threads included and its children not."""
    times = process.cpu_times()
    return float(times.user + times.system)


def question(dice: random.Random) -> str:
    who = dice.choice("my neighbour|a colleague|the doctor|a child|my bank|the landlord|a friend".split("|"))
    what = dice.choice(
        "asks for my password|wants to record me|is ill|lost a contract|plays loud music".split("|")
    )
    return f"What should I do when {who} {what} for the {dice.randint(1, 10**6)}th time?"


async def load(url: str, rate: float, writes: float, seconds: float, distinct: int) -> dict[str, Any]:
    """Sends both kinds of requests for a while; latencies in seconds."""
    dice = random.Random()  # never the same: what was written once is not written again
    questions = [question(dice) for _ in range(distinct)]
    base = f"{url}/v1/alignment/stores/{STORE}"
    latencies: dict[str, list[float]] = {"search": [], "write": []}
    failures: list[str] = []
    began = time.perf_counter()

    async def one(session: aiohttp.ClientSession, kind: str, path: str, body: Any, due: float) -> None:
        try:
            async with session.post(f"{base}/{path}", json=body) as response:
                answer = await response.json()
                if response.status >= 300 or (kind == "search" and len(answer["data"]) != 10):
                    failures.append(f"{kind} {response.status}: {str(answer)[:200]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            failures.append(f"{kind}: {error!r}")
        if due - began > WARM_UP:
            latencies[kind].append(time.perf_counter() - due)

    async def steadily(session: aiohttp.ClientSession, kind: str, per_second: float) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(int(per_second * (seconds + WARM_UP))):
                due = began + i / per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if kind == "write":
                    body: dict[str, Any] = {"text": f"Answer kindly. {question(dice)}", "tags": ["rare"]}
                    group.create_task(one(session, kind, "items", body, due))
                else:
                    body = {"query": dice.choice(questions) if questions else question(dice), "k": 10}
                    if i % 3 == 0:
                        body["tags"] = ["rare"]
                    group.create_task(one(session, kind, "search", body, due))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for text in questions:  # as if asked some time ago
            await one(session, "search", "search", {"query": text, "k": 10}, began)
        began = time.perf_counter()
        latencies["search"].clear()
        await asyncio.gather(steadily(session, "search", rate), steadily(session, "write", writes))
    result: dict[str, Any] = {"searches_per_s": rate, "writes_per_s": writes, "failed": len(failures)}
    result |= {"first_failures": failures[:3], "seconds": seconds, "distinct_questions": distinct}
    for kind, times in latencies.items():
        p50, p99 = np.percentile(times, [50, 99]) * 1000
        result[kind] = {
            "requests": len(times),
            "p50_ms": round(float(p50), 1),
            "p99_ms": round(float(p99), 1),
        }
        result[kind]["slowest_ms"] = round(max(times) * 1000, 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--writes", type=float, default=5)
    parser.add_argument("--distinct", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, default=1, help="one after the other, all of them reported")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "retrieval_load.json"
    )
    parser.add_argument("--serve", type=int, help="(for the script itself) serve on this port")
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.serve)
        return
    port = servers.free_port()
    command = [sys.executable, __file__, "--folder", str(options.folder), "--serve", str(port)]
    url = f"http://127.0.0.1:{port}"
    with servers.process(command, f"{url}/health") as started:
        about = json.load(urllib.request.urlopen(f"{url}/v1/alignment/stores/{STORE}"))
        server = psutil.Process(started.pid)
        (encoder,) = server.children()
        parts = {"server": server, "embedding": encoder, "load_generator": psutil.Process()}
        gc.collect()
        gc.freeze()
        runs = []
        for _ in range(options.runs):
            before = {name: cpu_seconds(process) for name, process in parts.items()}
            sent = asyncio.run(load(url, options.rate, options.writes, options.seconds, options.distinct))
            searches = options.rate * (options.seconds + WARM_UP) + options.distinct
            used = {name: (cpu_seconds(process) - before[name]) / searches for name, process in parts.items()}
            runs.append(sent | {"cpu_ms_per_search": {name: round(1000 * s, 2) for name, s in used.items()}})
    result = {**servers.machine(), "store": about, "runs": runs}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
