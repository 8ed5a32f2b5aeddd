"""The report over all strategies, for real: both bundled models, evaluated and timed, on one page.

The chat model runs inside heedful, the base model in vLLM's own server behind it. Raw records stay in `--folder`, so
that a run that was killed goes on where it stopped; the page and its Markdown go to docs/. The evaluation sets are no
part of heedful: `--data` is the folder that holds them.
Run: python benchmarks/report.py --data FOLDER [--folder DIR] [--limit 24]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import servers

CHAT, BASE = "smollm2-135m-instruct", "gemma-3-270m"
DOCS = Path(__file__).parent.parent / "docs"
# What a 135M model on two cores can carry: short reasoning, few demonstrations, a search that ends in time.
ALIGNMENTS: dict[str, list[Any]] = {
    "principles-cot": [{"principles": {"mode": "cot", "max_reasoning_tokens": 48}}],
    "demos-400": [{"demos": {"budget": 400, "max_example_tokens": 150}}],
    "norms-400": [{"norms": {"max_tokens": 400}}],
    "refine-toxicity": [{"refine": {"verifiers": ["toxicity"]}}],
    "best-of-4": [{"best_of_n": {"n": 4, "verifiers": ["toxicity"]}}],
    "rain-low": [
        {"rain": {"effort": "low", "no_opinion": "decode", "max_seconds": 20, "when_spent": "decode"}}
    ],
}
ALIGNMENTS |= {f"urial+{name}": ["urial", *ALIGNMENTS[name]] for name in ("best-of-4", "rain-low")}
RUN = {
    CHAT: ["direct", "principles", "urial", *(name for name in ALIGNMENTS if "+" not in name)],
    BASE: ["urial", "demos-400", "urial+best-of-4", "urial+rain-low"],
}
SETS = "simple_safety_tests,xstest_safe,mt_bench,capability,truthfulqa,opo_social,hh_harmless"


def heedful(*arguments: object) -> None:
    command = [sys.executable, "-m", "heedful.server", *map(str, arguments)]
    print("$", " ".join(["heedful", *command[3:]]), flush=True)
    done = subprocess.run(command)
    if done.returncode > 1:  # 1: some records hold an error, which the report counts
        raise SystemExit(done.returncode)


def measure(url: str, folder: Path, data: Path, limit: int, timed: int) -> None:
    """One folder for each model: what they can run differs, and so what they are held against."""
    for model, alignments in RUN.items():
        target = ["--url", f"{url}/v1", "--model", model, "--out", folder / model]
        target += [option for name in alignments for option in ("--alignment", name)]
        judge = ["--judge-url", f"{url}/v1", "--judge-model", CHAT]
        options = ["--limit", limit, "--max-tokens", 48, "--temperature", 0.7, "--concurrency", 8]
        heedful(
            "eval",
            "run",
            *target,
            "--sets",
            SETS,
            "--data",
            data,
            *options,
            *judge,
            "--baseline",
            alignments[0],
        )
        loads = ["--concurrency", 1, "--concurrency", 8, "--rate", 0.5]
        heedful("bench", *target, *loads, "--requests", timed, "--max-tokens", 32, "--words", 40)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("report-run"))
    parser.add_argument("--limit", type=int, default=24, help="items of each set")
    parser.add_argument("--timed", type=int, default=12, help="timed requests of each alignment and load")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, servers.vllm(BASE, "--max-model-len", "4096") as base:
        config = Path(scratch) / "heedful.yaml"
        upstreams = [{"url": f"{base}/v1", "models": [BASE]}]
        settings = {"model": CHAT, "engine": {"max_model_len": 4096}, "upstreams": upstreams}
        config.write_text(json.dumps(settings | {"alignments": ALIGNMENTS, "request_timeout": 1200}))
        port = servers.free_port()
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
        with servers.running(command, f"http://127.0.0.1:{port}") as url:
            measure(url, options.folder, options.data, options.limit, options.timed)
    page = options.folder / "report.html"
    heedful("report", *(options.folder / model for model in RUN), "--out", page)
    for made in (page, page.with_suffix(".md")):
        shutil.copy(made, DOCS)


if __name__ == "__main__":
    main()
