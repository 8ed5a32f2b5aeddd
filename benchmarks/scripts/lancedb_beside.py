"""heedful's store and LanceDB side by side: the same synthetic norms, questions and filters, by turns.

Everything is done by both in processes of their own, one after the other, so that whatever else the machine does
meets both. Vectors and filters are those of retrieval_scale.py; searching and adding to the full store are on one
core. LanceDB is no dependency of heedful: `pip install lancedb` (measured with 0.40) into an environment of its own
that sees heedful's, and run this there.

    python benchmarks/scripts/lancedb_beside.py [--sizes 200000 …] [--behaviours] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.machine import machine
from heedful.benchmarks.scripts import lancedb_behaviours as behaviours
from heedful.benchmarks.scripts.lancedb_sides import PROBES, SIDES, Lance
from heedful.benchmarks.scripts.retrieval_scale import CHUNK, D, K, draw, norm
from heedful.retrieval import Item
from heedful.retrieval.embedding.embedder import Vectors

QUERIES, GOAL = 100, 0.95
TAGS = {"all": None, "one_percent": "rare", "ten_percent": "tenth"}
_BEHAVIOURS = ("syncs", "kills", "history", "writers", "deletion", "export")


def prepare(folder: Path, rows: int) -> None:
    """Vectors, and the true neighbours by exact search in float32."""
    folder.mkdir()
    vectors = np.memmap(folder / "vectors", np.float32, "w+", shape=(rows, D))
    queries = draw(10**6 + 3, QUERIES)
    best = {name: (np.zeros((QUERIES, 0), np.float32), np.zeros((QUERIES, 0), np.int64)) for name in TAGS}
    for start in range(0, rows, CHUNK):
        vectors[start : start + CHUNK] = draw(start // CHUNK, CHUNK)
        scores = queries @ vectors[start : start + CHUNK].T
        for name, tag in TAGS.items():
            passing = [i for i in range(CHUNK) if tag is None or tag in norm(start + i).tags]
            all_scores = np.concatenate([best[name][0], scores[:, passing]], axis=1)
            numbers = np.array(passing, np.int64) + start
            all_rows = np.concatenate([best[name][1], np.tile(numbers, (QUERIES, 1))], axis=1)
            top = np.argsort(-all_scores, axis=1)[:, :K]
            best[name] = (np.take_along_axis(all_scores, top, 1), np.take_along_axis(all_rows, top, 1))
    for name, (_, numbers) in best.items():
        np.save(folder / f"{name}.npy", numbers)


# -- what a process of its own does, and says as JSON


def build(name: str, folder: Path, rows: int) -> dict[str, Any]:
    """Grows by a thousand, then waits for the index. On both cores."""
    vectors = np.memmap(folder / "vectors", np.float32, "r", shape=(rows, D))
    side = SIDES[name](folder / name, create=True)
    adding = 0.0
    for start in range(0, rows, 1000):
        items = [norm(i) for i in range(start, start + 1000)]
        piece = np.array(vectors[start : start + 1000])
        before = time.perf_counter()
        side.grow(items, piece)
        adding += time.perf_counter() - before
    before = time.perf_counter()
    side.settle()
    result = {"grow_rows_per_s": round(rows / adding), "index_after_s": _since(before)}
    side.close()
    return result | {"disk_mb": behaviours.megabytes(folder / name), "peak_gb": _peak()}


def search(name: str, folder: Path, rows: int) -> dict[str, Any]:
    before = time.perf_counter()
    side = SIDES[name](folder / name)
    side.search(draw(10**6, 1)[0], K, None)
    result: dict[str, Any] = {"open_s": _since(before)}
    truth = {name: np.load(folder / f"{name}.npy") for name in TAGS}
    queries = draw(10**6 + 3, QUERIES)
    asked: list[tuple[str, str, str | None]] = [(label, label, tag) for label, tag in TAGS.items()]
    if isinstance(side, Lance):
        asked.append(("all_without_history", "all", None))
    for label, true, tag in asked:

        def find(query: Vectors, label: str = label, tag: str | None = tag) -> list[str]:
            if label == "all_without_history" and isinstance(side, Lance):
                return side.unfiltered(query, K)
            return side.search(query, K, tag)

        tried = queries[:30]
        if isinstance(side, Lance):  # the first that finds enough
            for side.probes in PROBES:
                if _right([find(query) for query in tried], truth[true]) >= GOAL:
                    break
        for query in tried:
            find(query)
        times, found = [], []
        for query in queries:
            began = time.perf_counter()
            found.append(find(query))
            times.append(time.perf_counter() - began)
        recall, short = _right(found, truth[true]), sum(len(ids) < K for ids in found)
        result[label] = _percentiles(times) | {"recall": round(recall, 4), "fewer_than_k": short}
        if isinstance(side, Lance):
            result[label]["probes"] = side.probes or "no index"
    side.close()
    return result | {"peak_gb": _peak()}


def adds(name: str, folder: Path, rows: int) -> dict[str, Any]:
    """To the full store: by a hundred and one by one; whether each is found at once, and what that costs."""
    side, added = SIDES[name](folder / name), list[str]()
    queries = draw(10**6 + 3, 50)
    result: dict[str, Any] = {"search_before": _searches(side, queries)}
    for way, size, total in (("grow", 100, 1000), ("add", 100, 1000), ("grow", 1, 50), ("add", 1, 50)):
        vectors, taken, fresh = draw(10**6 + 2 + size, total), 0.0, 0
        for i in range(0, total, size):
            items = [Item(f"{way} {size} {j}", id=f"{way}-{size}-{j}") for j in range(i, i + size)]
            began = time.perf_counter()
            getattr(side, way)(items, vectors[i : i + size])
            taken += time.perf_counter() - began
            added += [item.id for item in items]
            fresh += bool(side.search(vectors[i], 2, None)[0].endswith(f"-{size}-{i}"))
        result[f"{way}_by_{size}"] = {
            "rows_per_s": round(total / taken, 1),
            "found_at_once": fresh * size / total,
        }
    result["search_after"] = _searches(side, queries)
    if isinstance(side, Lance):
        began = time.perf_counter()
        side.optimize()
        result |= {"optimize_s": _since(began), "search_after_optimize": _searches(side, queries)}
    side.delete(added)  # so that the true neighbours are true again
    side.close()
    return result | {"disk_mb": behaviours.megabytes(folder / name), "peak_gb": _peak()}


def _right(found: list[list[str]], truth: NDArray[np.int64]) -> float:
    right = sum(
        len({f"n{n}" for n in numbers} & set(ids)) for ids, numbers in zip(found, truth, strict=False)
    )
    return right / len(found) / K


def _searches(side: Any, queries: Vectors) -> dict[str, float]:
    times = []
    for query in [*queries[:5], *queries]:
        began = time.perf_counter()
        side.search(query, K, None)
        times.append(time.perf_counter() - began)
    return _percentiles(times[5:])


def _percentiles(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def _since(before: float) -> float:
    return round(time.perf_counter() - before, 2)


def _peak() -> float:
    """Of this process; getrusage would count the parent's too."""
    (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
    return round(int(line.split()[1]) / 2**20, 2)


# -- all of it, by turns


def in_a_process(step: str, name: str, folder: Path, rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--step", step, name, str(folder), str(rows)]
    environment = dict(os.environ)
    if step in ("search", "adds"):
        environment |= {"LANCE_CPU_THREADS": "1", "OMP_NUM_THREADS": "1"}
    before = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{rows} {step} {name} {_since(before)} s: {result}", flush=True)
    return result


def one_step(step: str, name: str, folder: Path, rows: int) -> None:
    if step in ("search", "adds"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    print(json.dumps({"build": build, "search": search, "adds": adds}[step](name, folder, rows)))


def measure(folder: Path, rows: int, into: dict[str, Any]) -> Iterator[None]:
    """Yields after every step, so that what takes too long costs nothing that is measured already."""
    prepare(folder, rows)
    for step, turns in (("build", 1), ("search", 2), ("adds", 1), ("search_after_adds", 2)):
        for name in [*SIDES] * turns:
            done = in_a_process(step.removesuffix("_after_adds"), name, folder, rows)
            into.setdefault(name, {}).setdefault(step, []).append(done)
            yield


def behave(folder: Path, into: dict[str, Any]) -> Iterator[None]:
    for what in _BEHAVIOURS:
        for name in SIDES:
            before = time.perf_counter()
            facts = getattr(behaviours, what)(name, folder / what / name)
            into.setdefault(what, {})[name] = facts
            print(f"{what} {name} {_since(before)} s: {facts}", flush=True)
            yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[200_000])
    parser.add_argument("--behaviours", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "lancedb_beside.json"
    )
    parser.add_argument("--step", nargs=4, help="(for the script itself) one side's part")
    options = parser.parse_args()
    if options.step:
        step, name, folder, rows = options.step
        one_step(step, name, Path(folder), int(rows))
        return
    result: dict[str, Any] = {**machine(), "lancedb": version("lancedb"), "dimension": D}
    if options.out.exists():  # sizes and behaviours may be measured in runs of their own
        result = json.loads(options.out.read_text()) | result
    result.setdefault("rows", {})
    options.out.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        steps = [measure(folder / str(n), n, result["rows"].setdefault(str(n), {})) for n in options.sizes]
        if options.behaviours:
            steps.append(behave(folder, result.setdefault("behaviours", {})))
        for _ in itertools.chain.from_iterable(steps):
            options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
