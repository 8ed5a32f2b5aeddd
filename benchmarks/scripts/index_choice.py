"""Which index at which size: exact, inverted lists and HNSW side by side on one core, over FAISS itself.

The vectors are those of retrieval_scale.py. `one_percent` is a filter inside the search that lets one row in a
hundred through. HNSW's `efSearch` is the smallest power of two that reaches 0.95 of the true ten neighbours without a
filter, or 512. Run: python benchmarks/scripts/index_choice.py [--sizes 10000 …] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.retrieval_scale import CHUNK, D, draw
from heedful.retrieval.embedding.embedder import Vectors
from heedful.retrieval.store.catalogue import Passing
from heedful.retrieval.store.index import Index

QUERIES, K, GOAL = 300, 10, 0.95
IndexSearch = Callable[[Vectors, NDArray[np.bool_]], NDArray[np.int64]]


def timed(
    search: IndexSearch, queries: Vectors, passing: NDArray[np.bool_], truth: list[set[int]]
) -> dict[str, float]:
    times, right = [], 0
    for query, expected in zip(queries, truth, strict=True):
        before = time.perf_counter()
        rows = search(query, passing)
        times.append(time.perf_counter() - before)
        right += len(expected & set(rows.tolist()))
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    recall = right / sum(map(len, truth))
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "recall": round(recall, 3)}


def hnsw(vectors: Vectors) -> tuple[Callable[[int], IndexSearch], float]:
    index = faiss.index_factory(D, "HNSW32,SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.train(vectors[:5000])
    before = time.perf_counter()
    index.add(vectors)

    def searching(ef: int) -> IndexSearch:
        def search(query: Vectors, passing: NDArray[np.bool_]) -> NDArray[np.int64]:
            selector = faiss.IDSelectorBitmap(np.packbits(passing, bitorder="little"))
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=ef)
            found: NDArray[np.int64] = index.search(query[None], K, params=parameters)[1][0]
            return found

        return search

    return searching, time.perf_counter() - before


def measure(size: int) -> dict[str, Any]:
    """All three over the first `size` vectors."""
    vectors = np.concatenate([draw(i, CHUNK) for i in range(size // CHUNK)])
    queries = draw(10**6 + 4, QUERIES)
    rows = np.arange(size)
    masks = {"all": np.ones(size, bool), "one_percent": rows * 7919 % 100 == 0}
    scores = queries @ vectors.T
    truth = {
        name: [set(np.flatnonzero(mask)[np.argsort(-s[mask])[:K]].tolist()) for s in scores]
        for name, mask in masks.items()
    }
    row: dict[str, Any] = {"rows": size}
    for name in ("flat", "ivf"):
        before = time.perf_counter()
        index = _ours(name, rows, vectors)
        row[name] = {"build_s": round(time.perf_counter() - before, 2)}

        def search(query: Vectors, passing: NDArray[np.bool_], index: Index = index) -> NDArray[np.int64]:
            return index.search(query, K, Passing.of(passing))[0]

        row[name] |= {m: timed(search, queries, mask, truth[m]) for m, mask in masks.items()}
    searching, took = hnsw(vectors)
    for ef in (16, 32, 64, 128, 256, 512):
        found = timed(searching(ef), queries, masks["all"], truth["all"])
        if found["recall"] >= GOAL:
            break
    filtered = timed(searching(ef), queries, masks["one_percent"], truth["one_percent"])
    row["hnsw"] = {"build_s": round(took, 2), "efSearch": ef, "all": found, "one_percent": filtered}
    print(json.dumps(row), flush=True)
    return row


def _ours(kind: str, rows: NDArray[np.int64], vectors: Vectors) -> Index:
    """The product's own index, of a kind that it might not choose at this size."""
    from heedful.retrieval.store import index as module

    chosen, module.FLAT_ROWS = module.FLAT_ROWS, len(rows) if kind == "flat" else 0
    try:
        built = Index.build(D, len(rows), lambda: iter([(rows, vectors)]))
    finally:
        module.FLAT_ROWS = chosen
    assert built.kind.startswith(kind)
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 50_000, 100_000, 200_000])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "index_choice.json"
    )
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    result = {**servers.machine(), "dimension": D, "rows": [measure(size) for size in options.sizes]}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
