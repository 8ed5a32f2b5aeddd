"""How long anybody waits for a store while others keep a server busy: readers, writers, imports, the event loop.

Three mixes over HTTP, one after the other, each with the embedding model at work and nobody pausing:

- readers: 16 clients search, page through, export and ask for histories of one store; meanwhile posts of 300 new
  items, and at the end a DELETE of the store.
- imports: 4 clients import 1,000 new norms each into stores of their own, again and again; meanwhile searches for new
  questions in another store.
- loop: 10 MB are posted as items and imported as a file while `/v1/models` lists 10 models; the longest time that
  the server's event loop did not turn, and the longest wait of a search for a remembered question.

The load generator runs on the same machine, in a process of its own.

Run: python benchmarks/scripts/retrieval_waits.py
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.retrieval_load import question

STORE, ITEMS = "read", 3000
READERS, POSTED, IMPORTS, IMPORTED = 16, 300, 4, 1000
BASE = "/v1/alignment/stores"
LONGEST_WAIT = 300  # seconds until a request counts as failed
Sending = Callable[[], Awaitable[None]]


def serve(folder: Path, port: int) -> None:
    """heedful's application over `folder` with ten models that nobody asks, and a path that tells the loop's gaps."""
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
    config = Config()
    alignments = Alignments(config, Resources(Prompts(), stores))
    engines = {f"model-{i}": ScriptedEngine(model=f"model-{i}") for i in range(10)}
    app = create_app(Service(config, dict(engines), alignments))
    longest, watching = 0.0, list[asyncio.Task[None]]()

    async def watch() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last - 0.001), now

    async def gap(request: Request) -> JSONResponse:
        """The longest since the last time it was asked."""
        nonlocal longest
        if not watching:
            watching.append(asyncio.create_task(watch()))
        told, longest = longest, 0.0
        return JSONResponse(told)

    app.add_route("/gap", gap)
    gc.collect()
    gc.freeze()  # as `heedful serve` does
    uvicorn.run(app, port=port, log_level="warning", access_log=False, http="httptools", loop="uvloop")


class Waits:
    """What requests of each kind took, in seconds, and what failed."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self.failed: list[str] = []

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"failed": len(self.failed), "first_failures": self.failed[:3]}
        for kind, taken in sorted(self.taken.items()):
            p50, p99 = np.percentile(taken, [50, 99]) * 1000
            out[kind] = {"requests": len(taken), "p50_ms": round(p50, 1), "p99_ms": round(p99, 1)}
            out[kind]["longest_ms"] = round(max(taken) * 1000, 1)
        return out


class MixedClient:
    """Sends requests and keeps their times."""

    def __init__(self, session: aiohttp.ClientSession, waits: Waits) -> None:
        self._session, self._waits = session, waits

    async def send(self, kind: str, method: str, path: str, **body: Any) -> None:
        began = time.perf_counter()
        try:
            async with self._session.request(method, path, **body) as response:
                told = await response.read()
            if response.status >= 300:
                self._waits.failed.append(f"{kind} {response.status}: {told[:200]!r}")
        except (aiohttp.ClientError, TimeoutError) as error:
            self._waits.failed.append(f"{kind}: {error!r}")
        self._waits.taken.setdefault(kind, []).append(time.perf_counter() - began)


@asynccontextmanager
async def repeated(*jobs: Sending) -> AsyncIterator[None]:
    """Each job again and again, without pause, until the block is left; its last turn is waited for."""
    stop = False

    async def again(job: Sending) -> None:
        while not stop:
            await job()

    tasks = [asyncio.create_task(again(job)) for job in jobs]
    try:
        yield
    finally:
        stop = True
        await asyncio.gather(*tasks)


def norms(count: int, dice: random.Random) -> list[dict[str, Any]]:
    return [
        {"text": f"Answer kindly. {question(dice)}", "id": f"{dice.getrandbits(64):x}"} for _ in range(count)
    ]


async def readers(session: aiohttp.ClientSession, dice: random.Random, posts: int) -> dict[str, Any]:
    waits, path = Waits(), f"{BASE}/{STORE}"
    client = MixedClient(session, waits)
    there = norms(ITEMS, dice)
    await client.send("make", "PUT", path)
    for start in range(0, ITEMS, 500):
        await client.send("fill", "POST", f"{path}/items", json={"items": there[start : start + 500]})
    assert not waits.failed, waits.failed
    waits.taken.clear()

    def reading(client: MixedClient) -> list[Sending]:
        jobs: list[Sending] = [
            lambda: client.send("search", "POST", f"{path}/search", json={"query": question(dice), "k": 10}),
            lambda: client.send("page", "GET", f"{path}/items?limit=1000"),
            lambda: client.send("export", "GET", f"{path}/export"),
            lambda: client.send("history", "GET", f"{path}/history/{dice.choice(there)['id']}"),
        ]
        return jobs * (READERS // len(jobs))

    async with repeated(*reading(client)):
        for _ in range(posts):
            await client.send("post_300", "POST", f"{path}/items", json={"items": norms(POSTED, dice)})
    assert not waits.failed, waits.failed
    stopped = Waits()  # once the store is gone, its readers are told so
    async with repeated(*reading(MixedClient(session, stopped))):
        await asyncio.sleep(2)
        await client.send("delete_store", "DELETE", path)
    odd = [f for f in stopped.failed if " 404: " not in f and "payload" not in f]
    return waits.as_json() | {"told_otherwise_than_that_it_is_deleted": len(odd), "such_as": odd[:1]}


async def imports(session: aiohttp.ClientSession, dice: random.Random, seconds: float) -> dict[str, Any]:
    waits, path = Waits(), f"{BASE}/{STORE}"
    client = MixedClient(session, waits)
    await client.send("make", "PUT", path)
    await client.send("fill", "POST", f"{path}/items", json={"items": norms(500, dice)})
    names = [f"{BASE}/into-{i}" for i in range(IMPORTS)]
    for name in names:
        await client.send("make", "PUT", name)
    waits.taken.clear()

    def job(name: str) -> Sending:
        def lines() -> bytes:
            return b"".join(json.dumps(item).encode() + b"\n" for item in norms(IMPORTED, dice))

        return lambda: client.send("import_1000", "POST", f"{name}/import", data=lines())

    async with repeated(*(job(name) for name in names)):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await asyncio.sleep(0.2)
            await client.send("search", "POST", f"{path}/search", json={"query": question(dice), "k": 10})
    for name in names:
        await client.send("delete_store", "DELETE", name)
    return waits.as_json()


async def loop(session: aiohttp.ClientSession, dice: random.Random) -> dict[str, Any]:
    waits, path = Waits(), f"{BASE}/{STORE}"
    client = MixedClient(session, waits)
    # Few different texts, so that time goes into reading and checking, not into embedding.
    asked = [question(dice) for _ in range(50)]
    items = [{"text": asked[i % 50], "id": f"i{i}", "meta": {"about": "x" * 900}} for i in range(10_000)]
    body = json.dumps({"items": items}).encode()
    lines = b"".join(json.dumps(item | {"id": f"l{item['id']}"}).encode() + b"\n" for item in items)
    out: dict[str, Any] = {"megabytes": round(len(body) / 1e6, 1)}
    await client.send("search", "POST", f"{path}/search", json={"query": asked[0], "k": 10})

    async def gap() -> float:
        async with session.get("/gap") as response:
            return float(await response.json())

    async def listing() -> None:
        await client.send("models", "GET", "/v1/models")

    async def asking() -> None:
        await client.send("search", "POST", f"{path}/search", json={"query": asked[0], "k": 10})

    async def pausing() -> None:
        await asyncio.sleep(0.05)

    await gap()
    posting = partial(client.send, "post_10_mb", "POST", f"{path}/items", data=body)
    importing = partial(client.send, "import_10_mb", "POST", f"{path}/import", data=lines)
    for name, work, beside in (
        ("quiet", pausing, pausing),
        ("models", pausing, listing),
        ("post_10_mb", posting, pausing),
        ("import_10_mb", importing, pausing),
        ("import_10_mb_and_models", importing, listing),
    ):
        waits.taken.pop("search", None)
        waits.taken.pop("models", None)
        async with repeated(asking, beside):
            await work()
            await asyncio.sleep(1)
            longest = await gap()
        out[name] = {"longest_gap_ms": round(longest * 1000, 1)} | {
            kind: told for kind, told in waits.as_json().items() if kind in ("search", "models")
        }
    await client.send("delete_store", "DELETE", path)
    return out | {"failed": len(waits.failed), "first_failures": waits.failed[:3]}


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=LONGEST_WAIT)
    out: dict[str, Any] = {}
    async with aiohttp.ClientSession(
        url, connector=aiohttp.TCPConnector(limit=0), timeout=timeout
    ) as session:
        for mix in options.mixes.split(","):
            dice = random.Random(mix)
            if mix == "readers":
                out[mix] = await readers(session, dice, options.posts)
            elif mix == "imports":
                out[mix] = await imports(session, dice, options.seconds)
            else:
                async with session.put(f"{BASE}/{STORE}") as made:
                    made.raise_for_status()
                out[mix] = await loop(session, dice)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--posts", type=int, default=10, help="posts of 300 items under readers")
    parser.add_argument("--seconds", type=float, default=30, help="of searches under imports")
    parser.add_argument("--mixes", default="readers,imports,loop")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "retrieval_waits.json"
    )
    parser.add_argument("--serve", type=int, help="(for the script itself) serve on this port")
    parser.add_argument("--folder", type=Path, help="(for the script itself) the stores")
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        port = servers.free_port()
        command = [sys.executable, __file__, "--folder", folder, "--serve", str(port)]
        with servers.process(command, f"http://127.0.0.1:{port}/health"):
            measured = asyncio.run(measure(f"http://127.0.0.1:{port}", options))
    result = {**servers.machine(), **measured}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
