"""How many engine steps RAIN's search takes one after another: a count, the same on every machine.

A scripted language model over 29 letters, and an engine that advances all its requests by one token per step, as vLLM
does. Where a step costs about the same for one request and for forty (a GPU with a model that fits well), steps per
committed token are the slow-down against plain decoding, which takes one. Needs no model and runs in a minute.
Run: python benchmarks/scripts/rain_steps.py [--seeds 8] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from heedful.prompts import Prompts
from heedful.retrieval.embedding.scripted import ScriptedEmbedder
from heedful.retrieval.store.stores import Stores
from heedful.strategies import ChatRequest, Continuation, Extension, Plan, Resources, Run, collect
from heedful.strategies.scripted import ScriptedEngine, ScriptedModel

LETTERS = b"abcdefghijklmnopqrstuvwxyz ,."
EMBEDDER = ScriptedEmbedder(lambda text: [text.count(chr(c)) + 0.1 for c in LETTERS])
RESOURCES = Resources(Prompts(), Stores(Path("none"), EMBEDDER))


class SteppingEngine(ScriptedEngine):
    """Every request needs as many steps as it writes tokens; a step advances all of them."""

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__(extend=self._wait)
        self._model = model
        self._running: list[tuple[int, asyncio.Future[None], int]] = []
        self.steps = self.advanced = 0

    async def _wait(self, extension: Extension) -> list[Continuation]:
        drawn = self._model(extension)
        done = asyncio.get_running_loop().create_future()
        self._running.append((max(len(d.token_ids) for d in drawn), done, extension.n))
        await done
        return drawn

    async def run(self) -> None:
        """Steps whenever everybody who can go on has gone on."""
        while True:
            for _ in range(40):
                await asyncio.sleep(0)
            running = [r for r in self._running if not r[1].done()]
            self._running = []
            for left, done, n in running:
                self.advanced += n
                if left == 1:
                    done.set_result(None)
                else:
                    self._running.append((left - 1, done, n))
            self.steps += bool(running)


def _chance(*parts: object) -> random.Random:
    return random.Random(blake2b(repr(parts).encode(), digest_size=8).digest())


def model(seed: int, good: float) -> ScriptedModel:
    """What follows depends on the last four letters; each order of a judgement finds good with this probability."""

    def step(tokens: Sequence[int]) -> Mapping[int, float]:
        text = bytes(tokens).decode(errors="replace")
        if text.endswith("answer is: ("):
            answer, _, options = text.rpartition("Assistant:\n")[2].rpartition("\n(A) ")
            first = options.startswith("harmless")
            found_good = _chance("judge", seed, answer, first).random() < good
            return {ord("A" if found_good == first else "B"): 1.0}
        chance = _chance(seed, tuple(tokens[-4:]))
        return {letter: chance.random() ** 8 for letter in LETTERS}

    return ScriptedModel(step)


async def measure(good: float, leaves: int, seeds: int, tokens: int) -> dict[str, Any]:
    """Sums over several answers."""
    total = dict.fromkeys(("steps", "advanced", "drafted", "searches", "expansions", "judgements"), 0)
    for seed in range(seeds):
        engine = SteppingEngine(model(seed, good))
        clock = asyncio.ensure_future(engine.run())
        plan = Plan.of("b", [("rain", {"parallel_leaves": leaves, "no_opinion": "continue"})], RESOURCES)
        request = ChatRequest("m", ({"role": "user", "content": "Hi"},), {"max_tokens": tokens, "seed": seed})
        run = Run(engine, RESOURCES)
        await collect(plan.stream(request, run))
        clock.cancel()
        notes = {k: v for step in run.trace.steps for k, v in step.items()}
        notes |= {"steps": engine.steps, "advanced": engine.advanced}
        for name in total:
            total[name] += notes[name]
    per_token = {f"{name}_per_token": round(total[name] / (seeds * tokens), 2) for name in total}
    row = {"good": good, "parallel_leaves": leaves, **per_token}
    row["width"] = round(total["advanced"] / total["steps"], 1)
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=67)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "rain_steps.json")
    options = parser.parse_args()
    rows = [
        asyncio.run(measure(good, leaves, options.seeds, options.tokens))
        for good in (1.0, 0.8, 0.5)
        for leaves in (1, 2, 4, 8, 16, 32)
    ]
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps({"tokens": options.tokens, "rows": rows}, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
