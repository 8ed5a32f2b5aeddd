"""What operating costs: heedful with keys, limits and all else that counts, beside heedful with none of it.

Both stand before the same fake upstream and are asked in turn, block by block. Ratios are of neighbours, their
intervals by bootstrap. Processor time is that of the server's threads, which another program's work changes little.
At the end so many requests by 1,000 keys, and the memory after each tenth of them.
Run: python benchmarks/scripts/operate_cost.py [--blocks 40] [--requests 600] [--many 100000] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.before import processor_us
from heedful.benchmarks.scripts.load import key
from heedful.benchmarks.scripts.proxy import Contestant
from heedful.benchmarks.stats import bootstrap

HERE = Path(__file__).parent
KEYS, TENANTS = 1000, 10
AT_ONCE = (1, 16, 64)
SIDES = ("bare", "operated")
STEPS = 10
# Limits that nobody meets: they are counted, and that costs the same.
LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "concurrent": 10**6,
    "tokens_per_day": 10**12,
    "tokens_per_month": 10**13,
}


def operated(upstream: str, folder: Path) -> dict[str, Any]:
    """heedful.yaml (JSON is YAML) of a server with everything on."""
    keys = [
        {"tenant": f"tenant-{i % TENANTS}", "sha256": sha256(key(i).encode()).hexdigest(), "limits": LIMITS}
        for i in range(KEYS)
    ]
    tenants = {f"tenant-{i}": {"limits": LIMITS, "records": {}} for i in range(TENANTS)}
    return {
        "upstreams": [{"url": f"{upstream}/v1", "models": ["fake"]}],
        "stores": str(folder),
        "starter_stores": False,
        "keys": keys,
        "tenants": tenants,
        "admission": {"running": 1000},
    }


@contextmanager
def both() -> Iterator[dict[str, Contestant]]:
    """The two servers, before one upstream."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = servers.free_port()
        upstream = f"http://127.0.0.1:{port}"
        command = [sys.executable, str(HERE / "fake_upstream.py"), str(port)]
        stack.enter_context(servers.process(command, f"{upstream}/health"))
        whole = operated(upstream, folder / "operated")
        bare = {k: whole[k] for k in ("upstreams", "starter_stores")} | {"stores": str(folder / "bare")}
        asked = {}
        for side, settings in (("bare", bare), ("operated", whole)):
            file = folder / f"{side}.yaml"
            file.write_text(json.dumps(settings))
            port = servers.free_port()
            url = f"http://127.0.0.1:{port}"
            command = [sys.executable, "-m", "heedful.server", "serve", "--config", str(file)]
            command += ["--port", str(port)]
            asked[side] = Contestant(
                url, "fake", stack.enter_context(servers.process(command, f"{url}/health"))
            )
        yield asked


def compared(asked: dict[str, Contestant], blocks: int, requests: int) -> list[dict[str, Any]]:
    """Requests per second, processor time and latency, at each load."""
    rows = []
    for at_once in AT_ONCE:
        for stream in (False, True):
            figures: dict[str, dict[str, list[float]]] = {
                what: {side: [] for side in SIDES} for what in ("requests_per_s", "processor_us", "p50_ms")
            }
            for block in range(-1, blocks):
                for side in SIDES if block % 2 else reversed(SIDES):
                    target = asked[side]
                    started = processor_us(target.process)
                    run = target.load(
                        *("--concurrency", at_once, "--requests", requests, "--seconds", 60),
                        *("--warm-up", 0, "--keys", KEYS),
                        stream=stream,
                    )
                    if run["errors"] or run["requests"] < requests:
                        raise SystemExit(f"{side}: {run}")
                    if block < 0:  # the block before the count warms both up
                        continue
                    figures["processor_us"][side].append(
                        (processor_us(target.process) - started) / run["requests"]
                    )
                    for what in ("requests_per_s", "p50_ms"):
                        figures[what][side].append(run[what])
            row = {"at_once": at_once, "stream": stream}
            rows.append(row | {what: _ratio(by_side) for what, by_side in figures.items()})
            print({k: v for k, v in rows[-1].items()}, flush=True)
    return rows


def _ratio(by_side: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, the median ratio operated / bare of neighbours with its interval, and the median difference."""
    pairs = list(zip(by_side["operated"], by_side["bare"], strict=True))
    ratio, low, high = (round(f, 3) for f in bootstrap([a / b for a, b in pairs], statistic=np.median))
    medians = {side: round(statistics.median(by_side[side]), 3) for side in SIDES}
    added = round(statistics.median(a - b for a, b in pairs), 3)
    return {**medians, "ratio": ratio, "interval": [low, high], "added": added}


def memory(target: Contestant, requests: int) -> list[float]:
    """Megabytes before, and after each tenth of the requests."""
    after = [target.memory_mb()]
    for _ in range(STEPS):
        options = ("--concurrency", 16, "--requests", requests // STEPS, "--seconds", 600, "--warm-up", 0)
        run = target.load(*options, "--keys", KEYS, stream=False)
        if run["errors"]:
            raise SystemExit(f"memory: {run}")
        after.append(target.memory_mb())
    return after


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "operate_cost.json")
    options = parser.parse_args()
    with both() as asked:
        result = {**servers.machine(), "keys": KEYS, "tenants": TENANTS}
        result["pass-through"] = compared(asked, options.blocks, options.requests)
        if options.many:
            result["memory_mb"] = memory(asked["operated"], options.many)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
