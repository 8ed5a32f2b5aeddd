"""Both kinds of stores side by side: a file of this process, and PostgreSQL with pgvector on the same machine.

The norms and vectors are those of retrieval_scale.py, with a filter that one in a thousand passes. A PostgreSQL of
the wheel is started for it, its settings those of `_SETTINGS` and its disk told to keep what is acknowledged. Recall
is against exact search in float32. `seen_by_another`: from the moment that replica A's write has returned until
replica B, with connections of its own, finds it; a store that A makes, until B's event loop knows its name.

    python benchmarks/scripts/postgres_store.py [--count 100000] [--many 1000000] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from heedful.benchmarks.machine import machine
from heedful.benchmarks.postgres_server import postgres
from heedful.benchmarks.scripts.retrieval_scale import CHUNK, D, K, adds, draw, norm
from heedful.retrieval import Filter, Item
from heedful.retrieval.embedding.embedder import Embedder, Vectors
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.stores import Stores

QUERIES, SEEN = 500, 200
_SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "4GB"}
_FILTERS: dict[str, str | None] = {"none": None, "10%": "tenth", "1%": "rare", "0.1%": "thousandth"}


def item(number: int) -> Item:
    made = norm(number)
    return replace(made, tags=(*made.tags, "thousandth")) if number * 7919 % 1000 == 3 else made


def fill(store: AnyStore, count: int) -> dict[str, float]:
    """By 1,000, while it grows."""
    adding = 0.0
    started = time.perf_counter()
    for start in range(0, count, CHUNK):
        vectors = draw(start // CHUNK, CHUNK)
        items = [item(start + i) for i in range(CHUNK)]
        for i in range(0, CHUNK, 1000):
            part = items[i : i + 1000]
            given = {each.text: vector for each, vector in zip(part, vectors[i : i + 1000], strict=True)}
            before = time.perf_counter()
            store.add(part, given)
            adding += time.perf_counter() - before
    rate = count / adding
    waited = time.perf_counter()
    while store.describe()["index"] == "flat":  # counts that choose are looked at every few seconds
        store.add([])
        store.settle()
        time.sleep(0.2)
    store.settle()
    now = time.perf_counter()
    return {
        "add_by_1000_per_s": round(rate),
        "wait_for_index_s": round(now - waited, 1),
        "filled_s": round(now - started, 1),
    }


def searched(store: AnyStore, queries: Vectors, truth: dict[str, list[set[str]]]) -> dict[str, Any]:
    result = {}
    for name, tag in _FILTERS.items():
        filter = Filter(kind="norm", tags=frozenset({tag} if tag else ()), at=time.time())
        for query in queries[:30]:
            store.search(query, K, filter)
        times, recalls = [], []
        for query, true in zip(queries, truth[name], strict=True):
            before = time.perf_counter()
            hits = store.search(query, K, filter)
            times.append(time.perf_counter() - before)
            recalls.append(len({hit.item.id for hit in hits} & true) / K)
        p50, p99 = np.percentile(times, [50, 99]) * 1000
        result[name] = {
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "recall_at_10": round(float(np.mean(recalls)), 4),
        }
    return result


def seen(place: Path | str, embedder: Embedder) -> dict[str, dict[str, float]]:
    """Milliseconds until another replica has what was acknowledged here."""
    here, there = Stores(place, embedder), Stores(place, embedder)
    mine, other = here.get("scale"), there.get("scale")
    found: dict[str, list[float]] = {"norm": [], "store": []}
    for i, vector in enumerate(draw(10**6 + 9, SEEN)):
        new = Item(f"Seen norm {i}", id="seen")
        mine.add([new], {new.text: vector})
        found["norm"].append(_until(lambda: other.search(vector, 1, Filter())[0].item.text == new.text))  # noqa: B023
    for i in range(SEEN // 4):
        name = f"seen{i}"
        here.create(name)
        found["store"].append(_until(lambda: there.has(name)))  # noqa: B023
        here.drop(name)
    here.close()
    there.close()
    return {
        what: {"p50_ms": round(float(np.median(times)), 2), "max_ms": round(max(times), 2)}
        for what, times in found.items()
    }


def _until(there: Callable[[], bool]) -> float:
    before = time.perf_counter()
    while not there():
        time.sleep(0.0005)
    return (time.perf_counter() - before) * 1000


def exact(queries: Vectors, count: int) -> dict[str, list[set[str]]]:
    """The true neighbours of each query under each filter."""
    scores = np.concatenate(
        [queries @ draw(start // CHUNK, CHUNK).T for start in range(0, count, CHUNK)], axis=1
    )
    tags = [item(number).tags for number in range(count)]
    truth = {}
    for name, tag in _FILTERS.items():
        columns = np.array([i for i, has in enumerate(tags) if tag is None or tag in has])
        top = np.argpartition(-scores[:, columns], K, axis=1)[:, :K]
        truth[name] = [{f"n{number}" for number in columns[row]} for row in top]
    return truth


def measured(place: Path | str, count: int, size: Callable[[], int]) -> dict[str, Any]:
    embedder = word_embedder("synthetic", dimension=D)
    stores = Stores(place, embedder)
    store = stores.create("scale")[0]
    result: dict[str, Any] = fill(store, count)
    result["index"] = store.describe()["index"]
    queries = draw(10**6 + 3, QUERIES)
    result["search"] = searched(store, queries, exact(queries, count))
    result["disk_gb"] = round(size() / 2**30, 2)
    result |= adds(store, len(store))
    result["seen_by_another"] = seen(place, embedder)
    stores.close()
    embedder.close()
    return result


def both(count: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="heedful-stores-"))
    try:
        files = measured(
            folder, count, lambda: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
        )
    finally:
        shutil.rmtree(folder)
    print(json.dumps(files), flush=True)
    with postgres(**_SETTINGS) as server:
        database = measured(server.url, count, server.bytes)
        with psycopg.connect(server.url) as db:
            versions = db.execute(
                "SELECT version(), (SELECT extversion FROM pg_extension WHERE extname = 'vector')"
            )
            told = versions.fetchone() or ()
    print(json.dumps(database), flush=True)
    return {"file": files, "postgres": database, "server": str(told[0]).split(" on ")[0], "pgvector": told[1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--many", type=int, help="measure so many too")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "postgres_store.json"
    )
    options = parser.parse_args()
    counts = [options.count, *([options.many] if options.many else [])]
    result = {**machine(), "dimension": D, "settings": _SETTINGS}
    result["norms"] = {str(count): both(count) for count in counts}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
