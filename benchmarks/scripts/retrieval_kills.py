"""A server killed in the midst of writes, again and again: what it had acknowledged is there, and nothing by halves.

Each round starts heedful's application over one folder, lets four clients write to it over HTTP (posts of several
items, replacements, deletions, imports, whole stores made and deleted), kills it with SIGKILL at a random moment, and
then opens the stores itself: every acknowledged write is there, every post is whole or not there, and what a search
finds is what stands. Embedding is by words, so that time goes into writing.

    python benchmarks/scripts/retrieval_kills.py [--rounds 100]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from heedful.benchmarks.scripts import servers
from heedful.retrieval import Filter
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.store import Store
from heedful.retrieval.store.stores import Stores

BASE = "/v1/alignment/stores"
CLIENTS, GROUP = 4, 5


def serve(folder: Path, port: int) -> None:
    import uvicorn

    from heedful.prompts import Prompts
    from heedful.server.alignments import Alignments
    from heedful.server.app import create_app
    from heedful.server.config import Config
    from heedful.server.service import Service
    from heedful.strategies import Resources
    from heedful.strategies.scripted import ScriptedEngine

    config = Config()
    alignments = Alignments(config, Resources(Prompts(), Stores(folder, word_embedder())))
    app = create_app(Service(config, {"none": ScriptedEngine(model="none")}, alignments))
    uvicorn.run(app, port=port, log_level="error", access_log=False)


class Acknowledged:
    """What the clients know: of each item the last acknowledged text (None: deleted) and what is still unanswered."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, str | None] = {}
        self.pending: dict[str, set[str | None]] = {}
        self.groups: list[list[str]] = []
        self.stores: dict[str, bool | None] = {}
        self.counts: Counter[str] = Counter()


async def client(session: aiohttp.ClientSession, known: Acknowledged, name: str, dice: random.Random) -> None:
    """Writes until the server is gone. Nobody else writes its items."""

    async def write(kind: str, after: dict[str, str | None], method: str, path: str, **body: Any) -> None:
        for id, text in after.items():
            known.pending.setdefault(id, set()).add(text)
        async with session.request(method, f"{BASE}/norms{path}", **body) as response:
            answer = await response.read()
        assert response.status < 300, answer
        for id, text in after.items():
            known.acknowledged[id] = text
            known.pending.pop(id, None)
        known.counts[kind] += 1

    mine: list[str] = []
    try:
        for i in range(10**6):
            group = {f"{name}-{i}-{j}": f"rule {name} {i} {j}" for j in range(GROUP)}
            items = [{"id": id, "text": text} for id, text in group.items()]
            kind = dice.choice(["post", "import", "replace", "delete", "store"])
            if kind == "post":
                known.groups.append(list(group))
                await write(kind, dict(group), "POST", "/items", json={"items": items})
                mine += group
            elif kind == "import":
                lines = "".join(json.dumps(item) + "\n" for item in items)
                await write(kind, dict(group), "POST", "/import", data=lines.encode())
                mine += group
            elif kind == "replace" and mine:
                id = dice.choice(mine)
                await write(kind, {id: f"anew {i}"}, "POST", "/items", json={"id": id, "text": f"anew {i}"})
            elif kind == "delete" and mine:
                id = mine.pop(dice.randrange(len(mine)))
                await write(kind, {id: None}, "DELETE", f"/items/{id}")
            elif kind == "store":
                made = f"s-{name}-{i}"
                for method, there in (("PUT", True), ("DELETE", False)):
                    known.stores[made] = None
                    async with session.request(method, f"{BASE}/{made}") as response:
                        assert response.status < 300, await response.read()
                    known.stores[made] = there
                    known.counts["make_or_drop"] += 1
                    if dice.random() < 0.5:
                        break
    except aiohttp.ClientError:
        return


async def writing(url: str, known: Acknowledged, round: int, kill: Any, seconds: float) -> None:
    async with aiohttp.ClientSession(url) as session:
        names = [f"r{round}c{i}" for i in range(CLIENTS)]
        tasks = [asyncio.create_task(client(session, known, n, random.Random(n))) for n in names]
        await asyncio.sleep(seconds)
        kill()
        await asyncio.gather(*tasks)


def check(folder: Path, known: Acknowledged) -> int:
    """Raises AssertionError for what is lost or by halves; returns how many items stand."""
    embedder = word_embedder()
    store = Store(folder / "norms.db", embedder)
    standing = {item.id: item.text for item in store}
    for id, text in known.acknowledged.items():
        possible = {text} | known.pending.get(id, set())
        assert standing.get(id) in possible, f"{id}: {standing.get(id)!r}, not {possible}"
    for id in standing.keys() - known.acknowledged.keys():
        assert standing[id] in known.pending[id], f"{id} was never written"
    for group in known.groups:
        unanswered = [id for id in group if id not in known.acknowledged]
        assert len({id in standing for id in unanswered}) <= 1, f"{group}: a half"
    # What was unanswered is known from now on.
    for id in known.pending:
        known.acknowledged[id] = standing.get(id)
    known.pending.clear()
    known.groups.clear()
    hits = store.search(embedder.embed_now(["rule"])[0], 10**6, Filter())
    assert {hit.item.id: hit.item.text for hit in hits} == standing
    store.close()
    for name, there in known.stores.items():
        path = folder / f"{name}.db"
        assert there is None or path.is_file() == there, f"store {name}: {there}"
        if path.is_file():
            Store(path, embedder).close()
    known.stores.clear()
    embedder.close()
    return len(standing)


def run(folder: Path, rounds: int) -> dict[str, Any]:
    """So many rounds; raises AssertionError at the first that loses something."""
    known, dice, standing, began = Acknowledged(), random.Random(0), 0, time.time()
    embedder = word_embedder()
    Store.create(folder / "norms.db", embedder).close()
    embedder.close()
    for round in range(rounds):
        port = servers.free_port()
        command = [sys.executable, __file__, "--folder", str(folder), "--serve", str(port)]
        with servers.process(command, f"http://127.0.0.1:{port}/health") as server:

            def kill(server: subprocess.Popen[bytes] = server) -> None:
                server.send_signal(signal.SIGKILL)

            asyncio.run(writing(f"http://127.0.0.1:{port}", known, round, kill, dice.uniform(0.05, 1)))
        standing = check(folder, known)
    facts = {"rounds": rounds, "seconds": int(time.time() - began), "acknowledged": dict(known.counts)}
    return facts | {"items_standing": standing, "lost_or_by_halves": 0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "retrieval_kills.json"
    )
    parser.add_argument("--serve", type=int, help="(for the script itself) serve on this port")
    parser.add_argument("--folder", type=Path, help="(for the script itself) the stores")
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = {**servers.machine(), **run(Path(folder), options.rounds)}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
