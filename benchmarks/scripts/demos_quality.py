"""Do retrieved demonstrations help a base model more than random ones? Per-token log-likelihood of the true answer.

The demonstration set is split: held-out prompts are asked, the rest is the store. The prompts are what the strategy
`demos` itself writes for the bundled base model (its own tokenizer, budget and order); for "random" the same strategy
draws from the same store at random. The likelihood of the true answer (its first 64 tokens) comes from a forward pass
of transformers over the very folder that vLLM serves, in bfloat16 (vLLM's prompt log-probabilities would do the same,
past its prefix cache). The test is paired over prompts.

    python benchmarks/scripts/demos_quality.py --data FOLDER [--prompts 240] [--budget 500] [--out FILE]

FOLDER holds dolly_387.jsonl, self_instruct_seed_tasks.jsonl and self_instruct_user_oriented_252.jsonl.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.stats import bootstrap, sign_flips
from heedful.prompts import Prompts
from heedful.retrieval import Filter, Hit, Item
from heedful.retrieval.embedding.embedder import load
from heedful.retrieval.ingest import import_items
from heedful.retrieval.store.stores import Stores
from heedful.server.models import bundled
from heedful.strategies import Capability, ChatRequest, Context, Resources, Run
from heedful.strategies.context.demos import Demos
from heedful.strategies.scripted import ALL, ScriptedEngine

BASE, ANSWER_TOKENS, LONGEST_PROMPT = "gemma-3-270m", 64, 600  # the last in characters


def demonstrations(folder: Path) -> list[Item]:
    """Prompts and answers of all files, without the few whose prompts are very long."""
    found = []
    for name in ("dolly_387", "self_instruct_seed_tasks", "self_instruct_user_oriented_252"):
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            first = row["instances"][0] if "instances" in row else row
            given = first.get("input", first.get("context", ""))
            prompt = f"{row['instruction']}\n\n{given}".strip()
            answer = first.get("output", first.get("response", "")).strip()
            if answer and len(prompt) <= LONGEST_PROMPT:
                found.append(Item(prompt, kind="demo", answer=answer, source=name))
    return list({item.text: item for item in found}.values())


class RandomStores(Stores):
    """Finds at random, from the same store."""

    dice = random.Random(0)

    async def search(self, name: str, text: str, k: int, filter: Filter) -> list[Hit]:
        items = list(await self.open(name))
        return [Hit(item, 0.0) for item in self.dice.sample(items, k)]


class Tokens(ScriptedEngine):
    """The base model as the strategy sees it: its tokenizer and its context."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(capabilities=ALL & ~(Capability.CHAT | Capability.PREFILL), context_length=4096)
        self._tokenizer = tokenizer

    async def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special))


def likelihood(model: Any, tokenizer: Any, prompt: str, answer: str) -> float:
    """Mean log-probability (natural) of the answer's first tokens after the prompt."""
    import torch

    context = tokenizer.encode(prompt)
    target = tokenizer.encode(f" {answer}", add_special_tokens=False)[:ANSWER_TOKENS]
    with torch.inference_mode():
        ids = torch.tensor([context + target])
        logits = model(ids, logits_to_keep=len(target) + 1).logits[0, :-1].float()
        chosen = torch.log_softmax(logits, -1)[torch.arange(len(target)), torch.tensor(target)]
    return float(chosen.mean())


async def prompts_of(strategy: Demos, questions: Sequence[Item], run: Run) -> list[tuple[str, int]]:
    """What the strategy writes for each question, and how many demonstrations that has."""
    written = []
    for question in questions:
        context = Context.of(ChatRequest(BASE, ({"role": "user", "content": question.text},)))
        prepared = await strategy.prepare(context, run)
        assert prepared.prompt is not None
        written.append((prepared.prompt, len(run.trace.steps[-1]["used"])))
    return written


def paired(better: Sequence[float], worse: Sequence[float]) -> dict[str, float]:
    """Mean difference, its bootstrap interval, and the p-value of a paired sign-flip test."""
    difference = np.asarray(better) - np.asarray(worse)
    mean, low, high = bootstrap(difference)
    return {
        "difference": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "p": round(sign_flips(difference), 4),
        "better_on": round(float((difference > 0).mean()), 3),
    }


def measure(items: list[Item], count: int, budget: int) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    random.Random(0).shuffle(items)
    questions, pool = items[:count], items[count:]
    path = bundled.prepare(bundled.MODELS[BASE])
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype="bfloat16").eval()
    prompts, engine = Prompts(), Tokens(tokenizer)
    scores: dict[str, list[float]] = {}
    shots: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        embedder = load()
        for name, kind in (("retrieved", Stores), ("random", RandomStores)):
            stores = kind(Path(folder), embedder)
            import_items(stores.create("demos")[0], pool)
            run = Run(engine, Resources(prompts, stores))
            written = asyncio.run(prompts_of(Demos(budget=budget), questions, run))
            shots[name] = round(float(np.mean([n for _, n in written])), 2)
            scores[name] = list(_scored(model, tokenizer, written, questions, name))
            if name == "retrieved":
                bare = asyncio.run(prompts_of(Demos(budget=0), questions, run))
                scores["none"] = list(_scored(model, tokenizer, bare, questions, "none"))
            stores.close()
    return {
        "model": BASE,
        "pool": len(pool),
        "prompts": len(questions),
        "budget_tokens": budget,
        "answer_tokens": ANSWER_TOKENS,
        "demonstrations_per_prompt": shots,
        "mean_log_likelihood": {name: round(float(np.mean(each)), 4) for name, each in scores.items()},
        "retrieved_against_random": paired(scores["retrieved"], scores["random"]),
        "retrieved_against_none": paired(scores["retrieved"], scores["none"]),
        "raw": {name: [round(score, 4) for score in each] for name, each in scores.items()},
    }


def _scored(
    model: Any, tokenizer: Any, written: list[tuple[str, int]], questions: list[Item], name: str
) -> Iterator[float]:
    for i, ((prompt, _), question) in enumerate(zip(written, questions, strict=True), 1):
        yield likelihood(model, tokenizer, prompt, question.answer)
        if i % 40 == 0:
            print(f"{name}: {i} of {len(questions)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=240)
    parser.add_argument("--budget", type=int, default=500)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "demos_quality.json"
    )
    options = parser.parse_args()
    result = {**servers.machine(), **measure(demonstrations(options.data), options.prompts, options.budget)}
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "raw"}, indent=1))


if __name__ == "__main__":
    main()
