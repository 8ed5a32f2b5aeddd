"""A store of a million norms: search with and without a filter, adds, opening, memory.

Vectors are synthetic, for want of a million norms: 2,000 topics of Zipf-like sizes, 20 subtopics in each,
and each text's own part in a subspace of 64 dimensions with some noise in all 384. `neighbours` in the result is the
mean cosine of the first and the tenth neighbour. The true neighbours come from exact search in float32.

    python benchmarks/scripts/retrieval_scale.py build --folder DIR [--count 1000000]
    python benchmarks/scripts/retrieval_scale.py measure --folder DIR [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.retrieval import Embedder, Filter, Item
from heedful.retrieval.embedding.embedder import Vectors, load
from heedful.retrieval.store.any_store import AnyStore
from heedful.retrieval.store.store import Store

D, CHUNK, QUERIES, K = 384, 10_000, 1000, 10
_ROOT = np.random.default_rng(1)
_TOPICS = _ROOT.standard_normal((2000, D)).astype(np.float32) / np.sqrt(D)
_SUBTOPICS = _ROOT.standard_normal((40_000, D)).astype(np.float32) / np.sqrt(D)
_SUBSPACE = _ROOT.standard_normal((64, D)).astype(np.float32) / np.sqrt(D)
_SIZES = 1 / np.arange(1, 2001) ** 0.6
_SIZES /= _SIZES.sum()


def draw(seed: int, count: int) -> Vectors:
    """`count` unit vectors, always the same for a seed."""
    rng = np.random.default_rng([seed, 77])
    topic = rng.choice(2000, count, p=_SIZES)
    subtopic = topic * 20 + rng.integers(0, 20, count)
    own = rng.standard_normal((count, 64)).astype(np.float32) @ _SUBSPACE / 8
    noise = rng.standard_normal((count, D)).astype(np.float32) / np.sqrt(D)
    vectors = 0.7 * _TOPICS[topic] + 0.6 * _SUBTOPICS[subtopic] + 0.6 * own + 0.2 * noise
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def norm(number: int) -> Item:
    """One in a hundred has the tag "rare", one in ten the tag "tenth"."""
    tags = ["rare"] * (number * 7919 % 100 == 0) + ["tenth"] * (number * 7919 % 10 == 1)
    text = (
        f"Norm {number}: in case {number % 997} do what is right, and in all others ask somebody who knows."
    )
    return Item(text, id=f"n{number}", tags=tuple(tags))


def embedder() -> Embedder:
    """The store is all-MiniLM-L6-v2's, so that retrieval_load.py can serve it; no figure here includes embedding."""
    return load()


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def build(folder: Path, count: int) -> dict[str, Any]:
    """Adds through the store's own API, a thousand in a transaction."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.create(folder / "scale.db", embedder())
    started, adding = time.perf_counter(), 0.0
    for start in range(0, count, CHUNK):
        vectors = draw(start // CHUNK, CHUNK)
        items = [norm(start + i) for i in range(CHUNK)]
        by_text = {item.text: vector for item, vector in zip(items, vectors, strict=True)}
        before = time.perf_counter()
        for i in range(0, CHUNK, 1000):
            store.add(items[i : i + 1000], {item.text: by_text[item.text] for item in items[i : i + 1000]})
        adding += time.perf_counter() - before
        if (start // CHUNK) % 20 == 19:
            rate = (start + CHUNK) / adding
            print(f"{start + CHUNK} rows, {rate:.0f} adds/s, index {store.describe()['index']}", flush=True)
    store.settle()
    took = time.perf_counter() - started
    index = str(store.describe()["index"])
    store.close()
    size = sum(f.stat().st_size for f in folder.iterdir())
    return {
        "rows": count,
        "index": index,
        "adds_per_s": round(count / adding),
        "build_s": round(took, 1),
        "build_peak_gb": peak_gb(),
        "disk_gb": round(size / 2**30, 2),
    }


def measure(folder: Path) -> dict[str, Any]:
    """Opening, searching and adding, on one core."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    model = embedder()
    model.dimension  # noqa: B018 - loaded now, so that it is no part of opening
    before_gb = peak_gb()
    started = time.perf_counter()
    store = Store(folder / "scale.db", model)
    store.search(draw(10**6, 1)[0], K, Filter())
    opened = time.perf_counter() - started
    store.settle()
    queries = draw(10**6 + 3, QUERIES)  # others than those that the number of lists was tried out on
    filters = {
        "all": Filter(kind="norm", at=time.time()),
        "one_percent": Filter(kind="norm", tags=frozenset({"rare"}), at=time.time()),
        "ten_percent": Filter(kind="norm", tags=frozenset({"tenth"}), at=time.time()),
    }
    result: dict[str, Any] = {"open_s": round(opened, 1), "embedder_gb": before_gb, "search": {}}
    found: dict[str, list[list[str]]] = {}
    for name, filter in filters.items():
        for query in queries[:20]:
            store.search(query, K, filter)
        times = []
        found[name] = []
        for query in queries:
            before = time.perf_counter()
            hits = store.search(query, K, filter)
            times.append(time.perf_counter() - before)
            found[name].append([hit.item.id for hit in hits])
        p50, p99 = np.percentile(times, [50, 99]) * 1000
        result["search"][name] = {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}
    result["peak_gb"] = peak_gb()
    result |= adds(store, len(store))
    store.close()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    count = int(store_rows(folder))
    truth, nearest = _exact(queries, count)
    for name in filters:
        hits_of = [len(set(f) & set(t)) / len(t) for f, t in zip(found[name], truth[name], strict=True)]
        result["search"][name]["recall_at_10"] = round(float(np.mean(hits_of)), 4)
    result["neighbours"] = {"first": round(nearest[0], 3), "tenth": round(nearest[1], 3)}
    return result


def adds(store: AnyStore, there: int) -> dict[str, Any]:
    """Adds to the full store, in transactions of 100 and of one."""
    rates = {}
    for size, total in ((100, 5000), (1, 300)):
        vectors = draw(10**6 + 2 + size, total)
        items = [Item(f"Added norm {size} {i}", id=f"added-{size}-{i}") for i in range(total)]
        by_text = {item.text: vector for item, vector in zip(items, vectors, strict=True)}
        before = time.perf_counter()
        for i in range(0, total, size):
            store.add(items[i : i + size], {item.text: by_text[item.text] for item in items[i : i + size]})
        rates[f"adds_per_s_by_{size}"] = round(total / (time.perf_counter() - before))
        store.delete([item.id for item in items])
    assert len(store) == there
    return rates


def store_rows(folder: Path) -> int:
    return int(json.loads((folder / "build.json").read_text())["rows"])


def _exact(queries: Vectors, count: int) -> tuple[dict[str, list[list[str]]], tuple[float, float]]:
    """True neighbours of every query under each filter, by looking at all vectors."""
    best: dict[str, list[tuple[NDArray[np.float32], NDArray[np.int64]]]] = {}
    for start in range(0, count, CHUNK):
        scores = queries @ draw(start // CHUNK, CHUNK).T
        items = [norm(start + i) for i in range(CHUNK)]
        passing = {
            "all": np.ones(CHUNK, bool),
            "one_percent": np.array(["rare" in item.tags for item in items]),
            "ten_percent": np.array(["tenth" in item.tags for item in items]),
        }
        for name, mask in passing.items():
            columns = np.flatnonzero(mask)
            top = np.argpartition(-scores[:, columns], K, axis=1)[:, :K]
            rows = columns[top]
            best.setdefault(name, []).append((np.take_along_axis(scores, rows, 1), rows + start))
    truth: dict[str, list[list[str]]] = {}
    nearest = (0.0, 0.0)
    for name, pieces in best.items():
        scores = np.concatenate([p[0] for p in pieces], axis=1)
        rows = np.concatenate([p[1] for p in pieces], axis=1)
        order = np.argsort(-scores, axis=1)[:, :K]
        truth[name] = [[f"n{r}" for r in rows[i, order[i]]] for i in range(len(queries))]
        if name == "all":
            ranked = np.take_along_axis(scores, order, 1)
            nearest = (float(ranked[:, 0].mean()), float(ranked[:, -1].mean()))
    return truth, nearest


def main() -> None:
    from heedful.benchmarks.scripts import servers

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["build", "measure"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "retrieval_scale.json"
    )
    options = parser.parse_args()
    if options.what == "build":
        result = build(options.folder, options.count)
        (options.folder / "build.json").write_text(json.dumps(result))
        print(json.dumps(result, indent=1))
        return
    built = json.loads((options.folder / "build.json").read_text())
    result = {**servers.machine(), "dimension": D, **built, **measure(options.folder)}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
