"""The report over all strategies, for real: both bundled models, evaluated and timed, on one page.

Each model runs inside heedful; while it is the base model, the chat model, which judges the answers, stands behind
it in vLLM's own server. Raw records stay in `--folder`, so that a run that was killed goes on where it stopped; the
page and its Markdown go to docs/. The evaluation sets are no part of heedful: `--data` is the folder that holds them.
Run: python benchmarks/scripts/report.py --data FOLDER [--folder DIR] [--limit 16]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from heedful.benchmarks.scripts import servers

CHAT, BASE = "smollm2-135m-instruct", "gemma-3-270m"
RECORDS = Path(__file__).parents[1] / "results" / "measured"
# Those without the words of prompts and answers: some sets may not be handed on, and some prompts ask for harm.
KEPT = (
    "latency.jsonl",
    "scores.jsonl",
    "judgements.jsonl",
    "comparisons.jsonl",
    "eval.run.json",
    "latency.run.json",
)
PAGE = Path(__file__).parents[2] / "docs" / "measured.html"
# What a 135M model on two cores can carry: short reasoning, few demonstrations, a search that ends in time.
ALIGNMENTS: dict[str, list[Any]] = {
    "principles-cot": [{"principles": {"mode": "cot", "max_reasoning_tokens": 48}}],
    "demos-400": [{"demos": {"budget": 400, "max_example_tokens": 150}}],
    "norms-400": [{"norms": {"max_tokens": 400}}],
    "refine-toxicity": [{"refine": {"verifiers": ["toxicity"]}}],
    "best-of-4": [{"best_of_n": {"n": 4, "verifiers": ["toxicity"]}}],
    "rain-low": [
        {"rain": {"effort": "low", "no_opinion": "decode", "max_seconds": 6, "when_spent": "decode"}}
    ],
}
RUN = {
    CHAT: ["direct", "principles", "urial", *ALIGNMENTS],
    BASE: ["urial", "demos-400", "urial+best-of-4", "urial+rain-low"],
}
SETS = "simple_safety_tests,xstest_safe,mt_bench,capability,truthfulqa,opo_social,hh_harmless"


def heedful(*arguments: object) -> None:
    command = [sys.executable, "-m", "heedful.server", *map(str, arguments)]
    print("$", " ".join(["heedful", *command[3:]]), flush=True)
    done = subprocess.run(command)
    if done.returncode > 1:  # 1: some records hold an error, which the report counts
        raise SystemExit(done.returncode)


@contextmanager
def served(model: str, port: int) -> Iterator[str]:
    """heedful over one model, and over the judge where that is another; yields its address."""
    with ExitStack() as stack:
        settings: dict[str, Any] = {"model": model, "engine": {"max_model_len": 4096}}
        if model != CHAT:
            url = stack.enter_context(servers.vllm(CHAT, "--max-model-len", "4096"))
            settings["upstreams"] = [{"url": f"{url}/v1", "models": [CHAT]}]
        config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "heedful.yaml"
        config.write_text(json.dumps(settings | {"alignments": ALIGNMENTS, "request_timeout": 1200}))
        # A fixed port: a benchmark that goes on must find the same address.
        command = [
            sys.executable,
            "-m",
            "heedful.server",
            "serve",
            "--config",
            str(config),
            "--port",
            str(port),
        ]
        yield stack.enter_context(servers.running(command, f"http://127.0.0.1:{port}"))


def measure(url: str, model: str, options: argparse.Namespace) -> None:
    """A folder for each model: what they can run differs, and so what they are held against."""
    alignments = RUN[model]
    target = ["--url", f"{url}/v1", "--model", model, "--out", str(options.folder / model)]
    target += [option for name in alignments for option in ("--alignment", name)]
    sets = ["--sets", SETS, "--data", options.data, "--limit", options.limit, "--concurrency", 8]
    judge = ["--judge-url", f"{url}/v1", "--judge-model", CHAT, "--baseline", alignments[0]]
    heedful("eval", "run", *target, *sets, *judge, "--max-tokens", 48, "--temperature", 0.7)
    loads = ["--concurrency", 1, "--concurrency", 8, "--rate", 0.5]
    heedful("bench", *target, *loads, "--requests", options.timed, "--max-tokens", 32, "--words", 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("report-run"))
    parser.add_argument("--limit", type=int, default=16, help="items of each set")
    parser.add_argument("--timed", type=int, default=8, help="timed requests of each alignment and load")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    for model in RUN:
        with served(model, options.port) as url:
            measure(url, model, options)
    heedful("report", *(options.folder / model for model in RUN), "--out", PAGE)
    for model in RUN:
        (RECORDS / model).mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            shutil.copy(options.folder / model / name, RECORDS / model)


if __name__ == "__main__":
    main()
