"""What standing between costs: heedful beside the bare floor, LiteLLM and optillm, over one fake upstream.

All servers run at once, one worker each, and are measured in turn, round by round. Ratios are taken within a round.
Run: python benchmarks/scripts/proxy.py --install   (LiteLLM and optillm into .peers/, each into its own environment)
     python benchmarks/scripts/proxy.py [--rounds 3] [--seconds 1.5] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heedful.benchmarks.scripts import servers

HERE = Path(__file__).parent
PEERS = HERE.parents[1] / ".peers"
# optillm asks for torch; the pin takes the build that is also heedful's.
INSTALL = {"litellm": ["litellm[proxy]"], "optillm": ["torch==2.13.0", "optillm"]}
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Tell me about bread, and why it matters."},
]
CONCURRENCIES = (1, 16, 64)
MEMORY_REQUESTS, MEMORY_STEPS = 50_000, 5
DRIP_STREAMS, DRIP_SECONDS = 100, 2.1


@dataclass
class Contestant:
    """Who is asked: an address, the model to name there, and the process whose memory counts."""

    url: str
    model: str
    process: subprocess.Popen[bytes]
    rounds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def load(self, *options: object, stream: bool, model: str | None = None) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model or self.model, "messages": MESSAGES, "temperature": 0.7}
        if stream:
            body["stream"] = True
        payload = json.dumps(body, separators=(",", ":"))
        command = [sys.executable, str(HERE / "load.py"), f"{self.url}/v1/chat/completions", payload]
        done = subprocess.run([*command, *map(str, options)], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    def memory_mb(self) -> float:
        """Resident memory of the process and its children."""
        tree = [self.process.pid]
        for pid in tree:
            for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
                tree += [int(child) for child in tasks.read_text().split()]
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in tree)
        return round(pages * 4096 / 1e6, 1)


def install() -> None:
    """Both peers from the package index. One that can't be installed is later reported as absent."""
    for peer, packages in INSTALL.items():
        shutil.rmtree(PEERS / peer, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / peer)], check=True)
        for package in packages:
            pip = [str(PEERS / peer / "bin" / "pip"), "install", "--quiet", package]
            if subprocess.run(pip).returncode:
                print(f"{peer}: {package} can't be installed", flush=True)
                shutil.rmtree(PEERS / peer)
                break


def _script(name: str, *arguments: object) -> list[str]:
    return [sys.executable, str(HERE / name), *map(str, arguments)]


@contextmanager
def _targets() -> Iterator[tuple[dict[str, Contestant], dict[str, str]]]:
    """Everything that runs, by name, and what is absent and why."""
    with ExitStack() as stack:

        def start(command: list[str], port: int, health: str, quiet: dict[str, str] | None = None) -> Any:
            url = f"http://127.0.0.1:{port}"
            return url, stack.enter_context(servers.process(command, f"{url}{health}", quiet))

        port = servers.free_port()
        upstream, process = start(_script("fake_upstream.py", port), port, "/health")
        targets = {"upstream": Contestant(upstream, "fake", process)}
        base = f"{upstream}/v1"
        port = servers.free_port()
        url, process = start(_script("floor.py", port, base), port, "/health")
        targets["floor"] = Contestant(url, "fake", process)
        port = servers.free_port()
        command = [sys.executable, "-m", "heedful.server", "serve", "--upstream", base, "--port", str(port)]
        url, process = start([*command, "--model", "fake", "--model", "drip"], port, "/health")
        targets["heedful"] = Contestant(url, "fake", process)
        targets["heedful principles"] = Contestant(url, "fake@principles", process)
        absent: dict[str, str] = {}
        for peer, prepare in (("litellm", _litellm), ("optillm", _optillm)):
            if not (PEERS / peer / "bin" / peer).exists():
                absent[peer] = "not installed here (python benchmarks/scripts/proxy.py --install)"
                continue
            port = servers.free_port()
            command, health, environment = prepare(base, port, Path(stack.enter_context(_folder())))
            try:
                url, process = start(command, port, health, environment)
            except SystemExit as error:
                absent[peer] = str(error)
                continue
            targets[peer] = Contestant(url, "fake", process)
        yield targets, absent


@contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def _litellm(base: str, port: int, folder: Path) -> tuple[list[str], str, dict[str, str]]:
    models = [
        {"model_name": m, "litellm_params": {"model": f"openai/{m}", "api_base": base, "api_key": "sk-x"}}
        for m in ("fake", "drip")
    ]
    (folder / "config.yaml").write_text(json.dumps({"model_list": models}))
    command = [str(PEERS / "litellm/bin/litellm"), "--config", str(folder / "config.yaml")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    # No key to check, as with the others; it starts so only when told twice.
    open_to_all = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return command, "/health/liveliness", open_to_all | quiet


def _optillm(base: str, port: int, folder: Path) -> tuple[list[str], str, dict[str, str]]:
    command = [str(PEERS / "optillm/bin/optillm"), "--base-url", base, "--port", str(port)]
    return [*command, "--approach", "none", "--log", "error"], "/health", {"OPENAI_API_KEY": "sk-x"}


def throughput(targets: dict[str, Contestant], rounds: int, seconds: float) -> None:
    """Requests per second and latency at each concurrency, streaming and not, every target in every round."""
    for i in range(rounds):
        for concurrency in CONCURRENCIES:
            for stream in (False, True):
                key = f"{'stream' if stream else 'whole'} {concurrency}"
                for name in list(targets)[:: -1 if i % 2 else 1]:
                    target = targets[name]
                    # Peers answer in seconds where the others take milliseconds: they get the time for it.
                    length, warm_up = (2 * seconds, 1) if name in INSTALL else (seconds, 0.3)
                    options = ("--concurrency", concurrency, "--seconds", length, "--warm-up", warm_up)
                    target.rounds.setdefault(key, []).append(target.load(*options, stream=stream))
        print(f"round {i + 1} of {rounds}", flush=True)


def dripping(targets: dict[str, Contestant]) -> None:
    """100 streams from an upstream that writes a token every 20 ms for two seconds.

    `burst`: all begin in the same instant, on new connections. `steady`: they begin spread over those two seconds,
    and each is followed by the next, so that 100 are under way all the time.
    """
    ways = {
        "burst": ("--requests", DRIP_STREAMS, "--seconds", 30, "--warm-up", 0),
        "steady": ("--ramp", DRIP_SECONDS, "--warm-up", DRIP_SECONDS, "--seconds", 2 * DRIP_SECONDS),
    }
    for way, options in ways.items():
        for target in targets.values():
            if way == "steady" and target.rounds["burst"][0]["first_p50_ms"] is None:
                continue  # it can't do it at all
            model = "drip@principles" if target.model.endswith("principles") else "drip"
            run = target.load("--concurrency", DRIP_STREAMS, *options, stream=True, model=model)
            target.rounds.setdefault(way, []).append(run)


def memory(target: Contestant) -> list[float]:
    """Resident memory before and after every ten thousand requests, half of them streams."""
    sizes = [target.memory_mb()]
    for _ in range(MEMORY_STEPS):
        for stream in (False, True):
            share = MEMORY_REQUESTS // MEMORY_STEPS // 2
            target.load("--concurrency", 64, "--requests", share, "--seconds", 120, stream=stream)
        sizes.append(target.memory_mb())
    return sizes


def summary(targets: dict[str, Contestant]) -> dict[str, Any]:
    """Medians over rounds."""
    fields = ("requests_per_s", "p50_ms", "p99_ms", "tokens_per_s", "first_p50_ms", "first_p99_ms", "errors")
    table: dict[str, Any] = {}
    for name, target in targets.items():
        table[name] = {"memory_mb": target.memory_mb()}
        for key, runs in target.rounds.items():
            found = {f: [r[f] for r in runs if r[f] is not None] for f in fields}
            table[name][key] = {f: round(statistics.median(v), 3) for f, v in found.items() if v}
    return table


def paired(
    a: Contestant, b: Contestant, key: str, figure: Callable[[dict[str, Any], dict[str, Any]], float]
) -> float:
    """The median over rounds of a figure of two runs in the same round."""
    return round(statistics.median(map(figure, a.rounds[key], b.rounds[key])), 3)


def judged(targets: dict[str, Contestant], sizes: list[float]) -> dict[str, Any]:
    """The targets of this project, as ratios within a round."""

    def ratio(x: dict[str, Any], y: dict[str, Any]) -> float:
        return float(x["requests_per_s"] / y["requests_per_s"])

    def added(x: dict[str, Any], y: dict[str, Any]) -> float:
        return float(x["p50_ms"] - y["p50_ms"])

    ours, aligned, floor, upstream = (
        targets[n] for n in ("heedful", "heedful principles", "floor", "upstream")
    )
    keys = [f"{kind} {c}" for c in CONCURRENCIES for kind in ("whole", "stream")]
    to_floor = {key: paired(ours, floor, key, ratio) for key in keys}
    to_ours = {key: paired(aligned, ours, key, ratio) for key in keys}
    latency = paired(ours, upstream, "whole 1", added)
    allowed = max(1.0, 3 * paired(floor, upstream, "whole 1", added))

    def later(x: dict[str, Any], y: dict[str, Any]) -> float:
        return float(x["first_p50_ms"] - y["first_p50_ms"])

    first = paired(ours, upstream, "steady", later)
    burst = {name: paired(targets[name], upstream, "burst", later) for name in ("floor", "heedful")}
    peers = {
        name: {key: paired(ours, targets[name], key, ratio) for key in keys}
        for name in ("litellm", "optillm")
        if name in targets and all(run["requests"] for key in keys for run in targets[name].rounds[key])
    }
    growth = round(sizes[-1] - sizes[1], 1)
    return {
        "requests_per_s, heedful / floor": {
            **to_floor,
            "at least": 0.5,
            "met": min(to_floor.values()) >= 0.5,
        },
        "requests_per_s, principles / heedful": {
            **to_ours,
            "at least": 0.8,
            "met": min(to_ours.values()) >= 0.8,
        },
        "added p50 at concurrency 1, ms": {
            "is": latency,
            "below": round(allowed, 3),
            "met": latency < allowed,
        },
        "first token behind the upstream's, ms": {
            "is": first,
            "within": 10,
            "met": first <= 10,
            "floor": paired(floor, upstream, "steady", later),
            "burst of 100": burst,
        },
        "memory over 50,000 requests, MB": {"sizes": sizes, "growth after the first fifth": growth},
        "requests_per_s, heedful / peer": peers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", action="store_true", help="install the peers, and measure nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "proxy.json")
    options = parser.parse_args()
    if options.install:
        install()
        return
    with _targets() as (targets, absent):
        throughput(targets, options.rounds, options.seconds)
        dripping(targets)
        table = summary(targets)
        sizes = memory(targets["heedful"])
        result = {**servers.machine(), "absent": absent, "targets": judged(targets, sizes), "medians": table}
        print(json.dumps(result, indent=1))
        result["rounds"] = {name: target.rounds for name, target in targets.items()}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
