"""heedful through Ray Serve, two replicas, beside one plain process: what Ray costs, and what it holds.

All stand before one fake upstream. First the two in turn, round by round, one request at a time and many at once;
then a replica is killed with SIGKILL under streams, and the replicas are replaced under load. The load generator,
Ray's own processes and the upstream share this machine's cores.
Run: python benchmarks/scripts/ray_beside.py [--rounds 3] [--seconds 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from heedful.benchmarks.load.client import LoadEndpoint
from heedful.benchmarks.load.stream import Reading
from heedful.benchmarks.machine import versions
from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.proxy import Contestant, paired
from heedful.server.config import Config, load

HERE = Path(__file__).parent
STREAMS = 50
_AT_ONCE = (1, 16)
_MANY = 8  # under which the replicas are replaced


def settings(base: str, port: int) -> dict[str, Any]:
    """Two replicas that Ray places wherever there is room."""
    upstream = {"url": base, "models": ["fake", "drip"], "capabilities": ["chat"], "retries": 0}
    ray = {"num_replicas": 2, "ray_actor_options": {"num_cpus": 0}}
    return {"upstreams": [upstream], "port": port, "starter_stores": False, "ray": ray}


def deploy(config: Config) -> None:
    """Deploys, or replaces what is deployed; returns when all of it runs."""
    from ray import serve

    from heedful.server.ray import APPLICATION, application

    serve.run(application(config), name=APPLICATION, route_prefix="/")


@contextmanager
def through_ray(config: Config) -> Iterator[str]:
    """A cluster of this machine's own; yields the address of its proxy."""
    import ray
    from ray import serve

    ray.init(log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
        deploy(config)
        yield f"http://{config.host}:{config.port}"
    finally:
        ray.shutdown()


def replicas() -> list[psutil.Process]:
    """The processes of this script's replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica"):
                found.append(process)
        except psutil.Error:  # it has ended
            continue
    return found


def upstream_connections(process: psutil.Process, port: int) -> int:
    """How many a replica holds to the upstream: one for each stream that it has, and idle ones."""
    return sum(bool(c.raddr) and c.raddr.port == port for c in process.net_connections(kind="tcp"))


async def wait(ready: Callable[[], bool]) -> None:
    """While the loop goes on."""

    def look() -> None:
        while not ready():
            time.sleep(0.05)

    await asyncio.to_thread(look)


def body(model: str) -> bytes:
    asked = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    return json.dumps(asked).encode()


async def killed(url: str, upstream: int) -> dict[str, Any]:
    """A replica dies under streams: how many break, and how the next requests fare."""
    async with LoadEndpoint(f"{url}/v1") as endpoint:
        begun = [endpoint.stream(body("drip"), time.perf_counter) for _ in range(STREAMS)]
        streams = [asyncio.ensure_future(each) for each in begun]
        victim, other = replicas()
        both = (victim, other)
        await wait(lambda: sum(upstream_connections(each, upstream) for each in both) >= STREAMS)
        held = upstream_connections(victim, upstream)
        victim.kill()
        after = [await endpoint.stream(body("fake"), time.perf_counter) for _ in range(20)]
        readings: list[Reading] = await asyncio.gather(*streams)
    await wait(lambda: len(living := replicas()) == 2 and victim not in living)
    return {
        "streams": STREAMS,
        "connections of the killed replica to the upstream": held,
        "streams that broke": sum(r.error is not None for r in readings),
        "how": sorted({r.error for r in readings if r.error}),
        "of the next 20 requests failed": sum(r.error is not None for r in after),
    }


async def replaced(url: str, changed: Config) -> dict[str, Any]:
    """Both replicas are replaced by ones of another configuration while requests come."""
    readings: list[Reading] = []
    async with LoadEndpoint(f"{url}/v1") as endpoint:
        update = asyncio.create_task(asyncio.to_thread(deploy, changed))

        async def ask() -> None:
            while not update.done():
                for model in ("drip", "fake"):
                    readings.append(await endpoint.stream(body(model), time.perf_counter))

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(_MANY)))
        await update
        took = time.perf_counter() - began
        name = await endpoint.stream(body("fake@house"), time.perf_counter)
    return {
        "requests": len(readings),
        "failed": sum(r.error is not None for r in readings),
        "how": sorted({r.error for r in readings if r.error}),
        "seconds": round(took, 1),
        "the new configuration answers": name.error is None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "ray_beside.json")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with ExitStack() as stack:

        def start(command: list[str], port: int) -> tuple[str, subprocess.Popen[bytes]]:
            url = f"http://127.0.0.1:{port}"
            return url, stack.enter_context(servers.process(command, f"{url}/health"))

        upstream = servers.free_port()
        base = f"{start([sys.executable, str(HERE / 'fake_upstream.py'), str(upstream)], upstream)[0]}/v1"
        port = servers.free_port()
        plain = [sys.executable, "-m", "heedful.server", "serve", "--upstream", base, "--port", str(port)]
        found = {"plain": Contestant(*_named(start([*plain, "--no-page"], port)))}
        wanted = settings(base, servers.free_port())
        url = stack.enter_context(through_ray(load(None, wanted)))
        found["ray"] = Contestant(url, "fake", found["plain"].process)  # whose memory nobody asks for
        for i in range(options.rounds):
            for kind in ("whole", "stream"):
                for many in _AT_ONCE:
                    for name in list(found)[:: -1 if i % 2 else 1]:
                        given = ("--concurrency", many, "--seconds", options.seconds, "--warm-up", 0.5)
                        run = found[name].load(*given, stream=kind == "stream")
                        found[name].rounds.setdefault(f"{kind}, {many} at once", []).append(run)
            print(f"round {i + 1} of {options.rounds}", flush=True)
        death = asyncio.run(killed(url, upstream))
        changed = load(None, {**wanted, "alignments": {"house": "principles"}})
        update = asyncio.run(replaced(url, changed))
    result: dict[str, Any] = {
        **servers.machine(),
        "versions": versions("ray"),
        "load_average_before": round(before, 2),  # of what else the machine was at
        "seconds": options.seconds,
        "a replica killed under streams": death,
        "replaced under load": update,
    }
    for kind in found["plain"].rounds:
        ray, alone = found["ray"], found["plain"]
        result[kind] = {
            "ray adds, ms at the median": paired(ray, alone, kind, lambda x, y: x["p50_ms"] - y["p50_ms"]),
            "ray's requests/s, of plain": paired(
                ray, alone, kind, lambda x, y: x["requests_per_s"] / y["requests_per_s"]
            ),
            **{
                name: {
                    figure: round(statistics.median(run[figure] for run in each.rounds[kind]), 2)
                    for figure in ("requests_per_s", "p50_ms", "p99_ms", "errors")
                }
                for name, each in found.items()
            },
        }
    print(json.dumps(result, indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


def _named(started: tuple[str, subprocess.Popen[bytes]]) -> tuple[str, str, subprocess.Popen[bytes]]:
    return started[0], "fake", started[1]


if __name__ == "__main__":
    main()
