"""What a second worker brings: heedful with one and with two, beside the bare forwarder with one and with two.

All stand before one fake upstream, which with the load generator shares this machine's cores with them: a second
worker can only have what those leave. They are measured in turn, round by round; ratios are taken within a round.
Run: python benchmarks/scripts/workers.py [--rounds 5] [--seconds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.proxy import Contestant, paired

HERE = Path(__file__).parent
CONCURRENCY = 64
AIM = 0.6
"""Of the requests a second that two workers of the bare forwarder answer."""


@contextmanager
def _contestants() -> Iterator[dict[str, Contestant]]:
    with ExitStack() as stack:

        def start(command: list[str], port: int) -> Contestant:
            url = f"http://127.0.0.1:{port}"
            return Contestant(url, "fake", stack.enter_context(servers.process(command, f"{url}/health")))

        port = servers.free_port()
        upstream = start([sys.executable, str(HERE / "fake_upstream.py"), str(port)], port)
        base, found = f"{upstream.url}/v1", {}
        for workers in (1, 2):
            port = servers.free_port()
            floor = [sys.executable, str(HERE / "floor.py"), str(port), base, str(workers)]
            found[f"forwarder, {workers}"] = start(floor, port)
            port = servers.free_port()
            ours = [sys.executable, "-m", "heedful.server", "serve", "--upstream", base, "--model", "fake"]
            found[f"heedful, {workers}"] = start(
                [*ours, "--port", str(port), "--workers", str(workers)], port
            )
        yield found


def _ratio(x: dict[str, Any], y: dict[str, Any]) -> float:
    return float(x["requests_per_s"] / y["requests_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "workers.json")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with _contestants() as found:
        for i in range(options.rounds):
            for kind in ("whole", "stream"):
                for name in list(found)[:: -1 if i % 2 else 1]:
                    load = ("--concurrency", CONCURRENCY, "--seconds", options.seconds, "--warm-up", 0.5)
                    run = found[name].load(*load, stream=kind == "stream")
                    found[name].rounds.setdefault(kind, []).append(run)
            print(f"round {i + 1} of {options.rounds}", flush=True)
        memory = {name: each.memory_mb() for name, each in found.items()}
    one, two, floor = found["heedful, 1"], found["heedful, 2"], found["forwarder, 2"]
    beside = {"load_average_before": round(before, 2)}  # of what else the machine was at
    result: dict[str, Any] = {
        **servers.machine(),
        **beside,
        "concurrency": CONCURRENCY,
        "seconds": options.seconds,
    }
    for kind in ("whole", "stream"):
        reached = paired(two, floor, kind, _ratio)
        result[kind] = {
            "two workers / one": paired(two, one, kind, _ratio),
            "two forwarders / one": paired(floor, found["forwarder, 1"], kind, _ratio),
            "two workers / two forwarders": {"is": reached, "at least": AIM, "met": reached >= AIM},
            **{
                name: {
                    figure: round(statistics.median(run[figure] for run in each.rounds[kind]), 2)
                    for figure in ("requests_per_s", "p50_ms", "p99_ms", "errors")
                }
                for name, each in found.items()
            },
        }
    result["memory_mb"] = memory
    print(json.dumps(result, indent=1))
    result["rounds"] = {name: each.rounds for name, each in found.items()}
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
