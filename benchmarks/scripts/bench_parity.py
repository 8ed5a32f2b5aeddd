"""`heedful bench` beside AIPerf, NVIDIA's load generator, on the same endpoint in turn: do they see the same?

The endpoint is a fake that keeps to a timetable (first token after 250 ms, 63 more every 25 ms), so that the truth is
known too; or a server that runs already (--url, --model). Each run has prompts of its own, of equal length.
Run: python benchmarks/scripts/bench_parity.py --install   (AIPerf into .peers/)
     python benchmarks/scripts/bench_parity.py [--rounds 1] [--requests 64] [--url URL/v1 --model M] [--out FILE]
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from heedful.benchmarks.journal import Journal
from heedful.benchmarks.load.records import RequestRecord
from heedful.benchmarks.load.workload import Words
from heedful.benchmarks.scripts import fake_upstream, servers
from heedful.server.models import bundled

HERE = Path(__file__).parent
AIPERF = HERE.parents[1] / ".peers" / "aiperf"
LOADS = {"closed 8": ("--concurrency", "8"), "poisson 4.0": ("--rate", "4")}
WORDS, MAX_TOKENS, WARM_UP = 100, fake_upstream.PACED_TOKENS, 8
FIGURES = ("first token, ms", "between tokens, ms", "whole answer, ms", "requests/s")
WITHIN = 0.05

ParityRow = dict[str, float]
"""Medians over the requests of one run, and its requests/s."""


def install() -> None:
    shutil.rmtree(AIPERF, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(AIPERF)], check=True)
    subprocess.run([str(AIPERF / "bin" / "pip"), "install", "--quiet", "aiperf>=0.13,<0.14"], check=True)


@contextmanager
def endpoint() -> Iterator[str]:
    port = servers.free_port()
    command = [sys.executable, str(HERE / "fake_upstream.py"), str(port)]
    url = f"http://127.0.0.1:{port}"
    with servers.process(command, f"{url}/health"):
        yield f"{url}/v1"


def prompts(path: Path, field: str, seed: str, count: int) -> Path:
    """So many texts, which no run has in common with another: a prefix cache has nothing to give."""
    words = Words(WORDS)
    texts = [words.messages(seed, i)[0]["content"] for i in range(count)]
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


def ours(url: str, model: str, load: str, requests: int, folder: Path, seed: str) -> ParityRow:
    file = prompts(folder / "prompts.jsonl", "prompt", seed, requests)
    command = [sys.executable, "-m", "heedful.server", "bench", "--url", url, "--model", model]
    command += [*LOADS[load], "--requests", str(requests), "--warmup", str(WARM_UP), "--ignore-eos"]
    command += ["--prompts", str(file), "--max-tokens", str(MAX_TOKENS), "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Journal(folder / "latency.jsonl", RequestRecord) as journal:
        records = list(journal)
    assert len(records) == requests and not any(r.error for r in records), records[0].error
    first = statistics.median(r.ttft for r in records if r.ttft is not None)
    # AIPerf's is the mean gap of each answer.
    between = statistics.median(statistics.mean(r.gaps) for r in records)
    whole = statistics.median(r.latency for r in records)
    figures = (1e3 * first, 1e3 * between, 1e3 * whole, requests / max(r.end for r in records))
    return dict(zip(FIGURES, figures, strict=True))


def aiperf(url: str, model: str, load: str, requests: int, folder: Path, seed: str) -> ParityRow:
    file = prompts(folder / "prompts.jsonl", "text", seed, requests)
    kind, _, size = load.partition(" ")
    shape = (
        ["--concurrency", size] if kind == "closed" else ["--request-rate", size, "--arrival-pattern", kind]
    )
    # Loaded though the server's usage counts; a local folder, since nothing is to be downloaded.
    tokenizer = bundled.prepare(bundled.MODELS["smollm2-135m-instruct"])
    command = [str(AIPERF / "bin" / "aiperf"), "profile", "--model", model, "--url", url.removesuffix("/v1")]
    command += ["--endpoint-type", "chat", "--streaming", *shape, "--request-count", str(requests)]
    command += ["--warmup-request-count", str(WARM_UP), "--input-file", str(file)]
    command += ["--custom-dataset-type", "single_turn", "--tokenizer", str(tokenizer)]
    command += ["--use-server-token-count", "--workers-max", "1", "--ui", "none", "--random-seed", "0"]
    command += ["--extra-inputs", json.dumps({"max_tokens": MAX_TOKENS, "ignore_eos": True})]
    command += ["--no-gpu-telemetry", "--no-server-metrics", "--artifact-dir", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:])
    found = json.loads((folder / "profile_export_aiperf.json").read_text())
    answered = int(found["request_count"]["avg"])
    assert answered == requests, f"AIPerf: {answered} of {requests} answered"
    names = ("time_to_first_token", "inter_token_latency", "request_latency")
    figures = (*(found[name]["p50"] for name in names), found["request_throughput"]["avg"])
    return dict(zip(FIGURES, figures, strict=True))


def compared(rounds: list[dict[str, ParityRow]], load: str) -> dict[str, Any]:
    """Medians over rounds, and how far ours is from the other's."""
    result: dict[str, Any] = {}
    for figure in FIGURES:
        a, b = (statistics.median(r[who][figure] for r in rounds) for who in ("heedful", "aiperf"))
        result[figure] = {"heedful": round(a, 3), "aiperf": round(b, 3), "apart": round(a / b - 1, 4)}
    if load.startswith("poisson"):
        # Each draws arrivals of its own, so that the rate reached is the draw's.
        result["requests/s"].pop("apart")
    return result


def measured(url: str, options: argparse.Namespace) -> dict[str, list[dict[str, ParityRow]]]:
    """Every load by both, round by round; who goes first takes turns."""
    runs: dict[str, list[dict[str, ParityRow]]] = {load: [] for load in LOADS}
    sides: dict[str, Callable[..., ParityRow]] = {"heedful": ours, "aiperf": aiperf}
    with tempfile.TemporaryDirectory() as top:
        for number in range(options.rounds):
            for load, rounds in runs.items():
                row: dict[str, ParityRow] = {}
                for who in sorted(sides, reverse=number % 2 == 0):
                    seed = f"{who} {load} {number}"
                    folder = Path(top) / seed.replace(" ", "-")
                    folder.mkdir()
                    row[who] = sides[who](url, options.model, load, options.requests, folder, seed)
                    print(f"{load}, {who}: {row[who]}", flush=True)
                rounds.append(row)
    return runs


def judged(runs: dict[str, list[dict[str, ParityRow]]]) -> dict[str, Any]:
    loads = {load: compared(rounds, load) for load, rounds in runs.items()}
    apart = max(abs(f["apart"]) for load in loads.values() for f in load.values() if "apart" in f)
    return {"loads": loads, "most apart": {"is": apart, "within": WITHIN, "met": apart <= WITHIN}}


def timetable() -> ParityRow:
    """What the fake keeps to."""
    first, gap = fake_upstream.PACED_FIRST, fake_upstream.PACED
    whole = first + gap * (fake_upstream.PACED_TOKENS - 1)
    return dict(zip(FIGURES, (round(1e3 * s, 3) for s in (first, gap, whole)), strict=False))


def version() -> str:
    code = "from importlib.metadata import version; print(version('aiperf'))"
    command = [str(AIPERF / "bin" / "python"), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--install", action="store_true", help="install AIPerf, and measure nothing")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--url", help="a server that runs, with /v1; default: the fake")
    parser.add_argument("--model", default="paced")
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "bench_parity.json")
    options = parser.parse_args()
    if options.install:
        install()
        return
    if not (AIPERF / "bin" / "aiperf").exists():
        raise SystemExit("AIPerf is not installed here: python benchmarks/scripts/bench_parity.py --install")
    result: dict[str, Any] = {**servers.machine(), "aiperf": version(), "requests": options.requests}
    if options.url:
        result["endpoint"] = f"a running server, model {options.model}"
        runs = measured(options.url, options)
    else:
        result["endpoint"] = "the fake, model paced"
        result["timetable"] = timetable()
        with endpoint() as url:
            runs = measured(url, options)
    result |= judged(runs)
    print(json.dumps(result, indent=1))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({**result, "rounds": runs}, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
