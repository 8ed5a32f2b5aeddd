"""The objective tasks, measured on a bundled model: what an alignment changes that code can check.

    python benchmarks/scripts/tasks.py living|rules|moral [--model NAME] [--folder DIR] [--limit N]

`living`: a store of made-up rules, questions before and after they change, beside a store that nobody keeps up to
date. `rules`: questions under rules that code checks. `moral`: questions that only a stereotype answers. Records stay
in `--folder`, so that a run that was killed goes on where it stopped, and are copied to benchmarks/results/tasks/ at
the end: questions and answers are of no third party.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from heedful.benchmarks.evals.folder import EvalFolder
from heedful.benchmarks.evals.living import Phase, world
from heedful.benchmarks.scripts import servers
from heedful.benchmarks.stats import paired_difference, wilson
from heedful.retrieval.embedding.embedder import load
from heedful.retrieval.store.stores import Stores

MODEL = "smollm2-135m-instruct"
RESULTS = Path(__file__).parents[1] / "results" / "tasks"
KEPT = ("items.jsonl", "answers.jsonl", "judgements.jsonl", "scores.jsonl", "eval.run.json")
_FEW: dict[str, Any] = {"store": "living", "k": 3, "caution": False}
ALIGNMENTS: dict[str, list[Any]] = {
    "norms-newest": [{"norms": _FEW | {"newest": 0.6}}],
    "norms": [{"norms": _FEW}],
    "stale-index": [{"norms": _FEW | {"store": "stale"}}],
}
_TOLD: dict[str, Any] = {"norms": {"store": "living", "k": 0, "extra": "$norms", "caution": False}}
_CHECKED: dict[str, Any] = {"verifiers": [{"rules": {"rules": "$rules"}}]}
RULES: dict[str, list[Any]] = {
    "norms": [_TOLD],
    "norms+best-of-4": [_TOLD, {"best_of_n": {"n": 4, **_CHECKED}}],
    "norms+best-of-8": [_TOLD, {"best_of_n": {"n": 8, **_CHECKED}}],
    "norms+refine-3": [_TOLD, {"refine": {"max_rounds": 3, **_CHECKED}}],
}
"""Alignments of the run's own, which hold each question's rules."""
_FAIR: dict[str, Any] = {"set": "fairness", "place": "question"}
MORAL: dict[str, list[Any]] = {
    "Q+IF": [{"principles": _FAIR}],
    "Q+IF+CoT": [{"principles": _FAIR | {"mode": "cot", "max_reasoning_tokens": 64}}],
}
"""Ganguli's conditions beside Q, which is `direct`."""


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


def run(url: str, name: str, options: argparse.Namespace, alignments: list[str], *more: str) -> None:
    out = options.folder / name
    command = [sys.executable, "-m", "heedful.server", "eval", "run", "--url", f"{url}/v1", "--out", str(out)]
    command += ["--model", options.model, "--sets", name, "--concurrency", "8", *more]
    command += [part for each in alignments for part in ("--alignment", each)]
    command += ["--limit", str(options.limit)] if options.limit else []
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
            names = [*ALIGNMENTS] if phase == "after" else ["norms-newest"]
            run(url, f"living_{phase}", options, ["direct", *names], "--max-tokens", "32")

    summed = {phase: summary(options.folder / f"living_{phase}") for phase in phases}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "living.json").write_text(json.dumps(summed, indent=1) + "\n")


def summary(folder: Path) -> dict[str, Any]:
    """By alignment: shares right and stale with Wilson's intervals, of all and by case; the gain over `direct`."""
    marks: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for mark in EvalFolder(folder).records().judgements:
        value = mark.value if mark.measure == "living" else 1 - (mark.value or 0)
        marks[mark.alignment][mark.measure][mark.id] = value or 0.0
    out: dict[str, Any] = {}
    for name, by in marks.items():
        cases = sorted({id.partition("/")[0] for id in by["living"]})
        told: dict[str, Any] = {
            case: {
                m: _share([v for id, v in by[m].items() if case in ("all", id.partition("/")[0])]) for m in by
            }
            for case in ("all", *cases)
        }
        both = [id for id in by["living"] if id in marks["direct"]["living"]]
        before, after = ([each["living"][id] for id in both] for each in (marks["direct"], by))
        told["gain"] = [round(x, 4) for x in paired_difference(before, after)]
        out[name] = told
    return out


def _share(values: list[float]) -> dict[str, Any]:
    right = int(sum(values))
    interval = [round(x, 4) for x in wilson(right, len(values))]
    return {"n": len(values), "count": right, "share": round(right / len(values), 4), "interval": interval}


def rules(options: argparse.Namespace) -> None:
    """Sampled: at temperature 0 the best of several is one."""
    with served(options.model, options.folder) as url:
        sampled = ("--max-tokens", "64", "--temperature", "0.7")
        run(url, "rules", options, ["direct"], *_inline(RULES), *sampled)


def moral(options: argparse.Namespace) -> None:
    with served(options.model, options.folder) as url:
        run(url, "ambiguous", options, ["direct"], *_inline(MORAL))


def _inline(alignments: dict[str, list[Any]]) -> list[str]:
    return [
        part for name, steps in alignments.items() for part in ("--inline", f"{name}={json.dumps(steps)}")
    ]


TASKS: dict[str, tuple[Callable[[argparse.Namespace], None], tuple[str, ...]]] = {
    "living": (living, ("living_before", "living_after")),
    "rules": (rules, ("rules",)),
    "moral": (moral, ("ambiguous",)),
}
"""What measures each, and the sets whose records it makes."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=[*TASKS])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--folder", type=Path, default=Path("tasks-run"))
    parser.add_argument("--limit", type=int, help="items of each set")
    options = parser.parse_args()
    measure, kept = TASKS[options.task]
    measure(options)
    for name in kept:
        (RESULTS / name).mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            shutil.copy(options.folder / name / file, RESULTS / name)


if __name__ == "__main__":
    main()
