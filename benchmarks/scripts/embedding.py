"""What embedding questions costs on one core: the bundled model as PyTorch computes it and as OpenVINO does.

PyTorch computes in bfloat16 where the processor does, as the product has it. Questions are never the same twice, so
their lengths change from batch to batch. `cosine` is the smallest one between the vectors of the two.

    python benchmarks/scripts/embedding.py [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.retrieval_load import question
from heedful.retrieval.embedding.compiled import compiled
from heedful.retrieval.embedding.embedder import unit
from heedful.retrieval.embedding.encoder import BUNDLED
from heedful.retrieval.embedding.encoding import in_pytorch, model

SIZES, BATCHES = (1, 2, 4, 8, 16, 64), 40


def measure() -> dict[str, Any]:
    ways = {
        "openvino": compiled(model(BUNDLED, "cpu", 1), 1),
        "pytorch": in_pytorch(model(BUNDLED, "cpu", 1)),
    }
    dice = random.Random(0)
    texts = [question(dice) for _ in range(64)]
    one, other = (unit(np.asarray(encode(texts))) for encode in ways.values())
    result: dict[str, Any] = {"cosine": round(float((one * other).sum(axis=1).min()), 5), "ms": {}}
    for size in SIZES:
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(BATCHES):
            batch = [question(dice) for _ in range(size)]
            for name, encode in ways.items():
                before = time.perf_counter()
                encode(batch)
                times[name].append(time.perf_counter() - before)
        result["ms"][str(size)] = {
            name: round(1000 * float(np.median(seconds)), 1) for name, seconds in times.items()
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "embedding.json")
    options = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
    result = {**servers.machine(), "model": BUNDLED, **measure()}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
