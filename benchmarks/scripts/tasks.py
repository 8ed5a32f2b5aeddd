"""The objective tasks, measured on a bundled model: what an alignment changes that code can check.

    python benchmarks/scripts/tasks.py living [--model NAME] [--folder DIR] [--limit N]

`living`: a store of made-up rules, questions before and after they change, beside a store that nobody keeps up to
date. Records stay in `--folder`, so that a run that was killed goes on where it stopped, and are copied to
benchmarks/results/tasks/ at the end: questions and answers are of no third party. About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from heedful.benchmarks.evals.living import Phase, world
from heedful.benchmarks.scripts import servers
from heedful.retrieval.embedding.embedder import load
from heedful.retrieval.store.stores import Stores

MODEL = "smollm2-135m-instruct"
RESULTS = Path(__file__).parents[1] / "results" / "tasks"
KEPT = ("items.jsonl", "answers.jsonl", "judgements.jsonl", "eval.run.json")
_FEW: dict[str, Any] = {"store": "living", "k": 3, "caution": False}
ALIGNMENTS: dict[str, list[Any]] = {
    "norms": [{"norms": {"store": "living"}}],
    "norms-3": [{"norms": _FEW}],
    "norms-3-newest": [{"norms": _FEW | {"newest": 0.6}}],
    "norms-1-newest": [{"norms": _FEW | {"k": 1, "newest": 0.6}}],
    "stale-index": [{"norms": _FEW | {"store": "stale"}}],
}


@contextmanager
def served(model: str, home: Path) -> Iterator[str]:
    """heedful over a model, with stores that outlive a run that is killed; yields its address."""
    at = home / "stores"
    stores = Stores(at, load())
    for name in ("living", "stale"):  # alignments that name a store need it when the server starts
        if not stores.has(name):
            stores.create(name)
    stores.close()
    settings = {"model": model, "engine": {"max_model_len": 2048}, "stores": str(at)}
    with tempfile.TemporaryDirectory() as there:
        config = Path(there) / "heedful.yaml"
        config.write_text(json.dumps(settings | {"alignments": ALIGNMENTS}))
        port = servers.free_port()
        command = [sys.executable, "-m", "heedful.server", "serve", "--config", str(config)]
        with servers.running([*command, "--port", str(port)], f"http://127.0.0.1:{port}") as url:
            yield url


async def prepare(url: str, phase: Phase) -> None:
    """Writes a phase's norms over HTTP, as whoever keeps them would. What is there already is not written twice."""
    made = world()
    at = f"{url}/v1/alignment/stores"
    async with aiohttp.ClientSession(raise_for_status=True) as session:

        async def write(store: str, norms: list[Any]) -> None:
            for start in range(0, len(norms), 100):
                items = [norm.as_json() for norm in norms[start : start + 100]]
                async with session.post(f"{at}/{store}/items", json={"items": items}):
                    pass

        if phase == "after":
            await write("living", made.change.add)
            for id in made.change.end:
                async with session.delete(f"{at}/living/items/{id}", raise_for_status=False) as gone:
                    if gone.status not in (200, 204, 404):
                        gone.raise_for_status()
            return
        for store in ("living", "stale"):
            await write(store, made.norms)


def run(url: str, out: Path, name: str, model: str, alignments: list[str], limit: int | None) -> None:
    command = [sys.executable, "-m", "heedful.server", "eval", "run", "--url", f"{url}/v1", "--out", str(out)]
    command += ["--model", model, "--sets", name, "--max-tokens", "32", "--concurrency", "8"]
    command += [part for each in alignments for part in ("--alignment", each)]
    command += ["--limit", str(limit)] if limit else []
    subprocess.run(command, check=True)


def living(options: argparse.Namespace) -> None:
    """Asks before the change and after it. A folder that has begun with what comes after is past the first."""
    phases: tuple[Phase, ...] = ("before", "after")
    changed = options.folder / "living_after" / "eval.run.json"
    with served(options.model, options.folder) as url:
        for phase in phases:
            if phase == "before" and changed.exists():
                continue
            asyncio.run(prepare(url, phase))
            names = ["direct", *(n for n in ALIGNMENTS if phase == "after" or n != "stale-index")]
            run(
                url,
                options.folder / f"living_{phase}",
                f"living_{phase}",
                options.model,
                names,
                options.limit,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=["living"])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--folder", type=Path, default=Path("tasks-run"))
    parser.add_argument("--limit", type=int, help="items of each set")
    options = parser.parse_args()
    living(options)
    for name in ("living_before", "living_after"):
        (RESULTS / name).mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copy(options.folder / name / file, RESULTS / name)


if __name__ == "__main__":
    main()
