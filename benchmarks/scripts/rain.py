"""What RAIN costs: plain decoding, reference and fast mode, and a batch-1 transformers loop of the same search.

Two profiles. Forced: every judgement is made, and its outcome replaced by "good", so that every stop rule is met (a
pure cost profile). Real: the model's own judgements, under a bounded budget. The engine runs in this process.
Run: python benchmarks/scripts/rain.py [--tokens 67] [--loop-tokens 17] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from heedful.benchmarks.scripts import servers
from heedful.benchmarks.scripts.rain_split import Split
from heedful.prompts import Prompts
from heedful.retrieval.embedding import embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.models import bundled
from heedful.strategies import ChatRequest, Continuation, Engine, Extension, Plan, Resources, Run, collect

MODEL = "smollm2-135m-instruct"
THREADS = "VLLM_CPU_OMP_THREADS_BIND"  # vLLM's own setting; it keeps one core free unless told otherwise
QUESTIONS = [
    "How do I keep a small garden alive in a dry summer?",
    "My flatmate never does the dishes. What should I say to him?",
    "Explain how a bicycle stays upright.",
]
# vLLM's own counters: steps of the engine, the tokens they computed, and prompt tokens found in the prefix cache.
COUNTERS = {
    "steps": "vllm:iteration_tokens_total_count",
    "computed": "vllm:iteration_tokens_total_sum",
    "cached": "vllm:prefix_cache_hits_total",
}


class ForcedEngine:
    """An engine whose self-evaluations all come out good: the work is done, the outcome replaced."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def extend(self, extension: Extension) -> list[Continuation]:
        results: list[Continuation] = await self._engine.extend(extension)
        if not extension.logprob_token_ids:
            return results
        a, b = extension.logprob_token_ids
        asked = await self._engine.detokenize(extension.token_ids[-48:])
        good = a if asked.rpartition("\n(A) ")[2].startswith("harmless") else b
        step = {a: -3.0, b: -3.0} | {good: -0.1}
        return [Continuation(r.token_ids, r.text, (step,), r.finish_reason) for r in results]


class Bench:
    """Runs requests on one engine and sums up what they cost."""

    def __init__(self, engine: Engine, resources: Resources, split: Split | None = None) -> None:
        self.engine, self.resources, self.split = engine, resources, split

    async def answer(
        self, question: str, tokens: int, options: dict[str, Any] | None, seed: int = 1
    ) -> dict[str, Any]:
        """One request: by plain decoding where `options` is None, else by RAIN with these options."""
        plan = Plan.of("b", [] if options is None else [("rain", options)], self.resources)
        params: dict[str, Any] = {"max_tokens": tokens, "ignore_eos": True, "seed": seed}
        if options is None:
            params["temperature"] = 0
        request = ChatRequest(MODEL, ({"role": "user", "content": question},), params)
        run = Run(self.engine, self.resources)
        before, started = _counters(), time.perf_counter()
        answer = await collect(plan.stream(request, run))
        seconds = time.perf_counter() - started
        notes: dict[str, Any] = {}
        for step in run.trace.steps:
            notes |= {k: v for k, v in step.items() if k not in ("commits", "step", "at_ms")}
        written = notes.get("committed_tokens", tokens)
        after = _counters()
        return {
            "seconds": seconds,
            "committed": written,
            "text": answer.text,
            **notes,
            "engine": {k: after[k] - before.get(k, 0) for k in after},
        }

    async def row(
        self, name: str, tokens: int, options: dict[str, Any] | None, questions: Sequence[str]
    ) -> dict[str, Any]:
        """Requests one after another."""
        await self._fresh()
        results = [await self.answer(q, tokens, options) for q in questions]
        row = _summary(name, results, [r["seconds"] for r in results])
        if self.split is not None and options is not None:
            n = row["committed_tokens"]
            split = self.split.take().items()
            row["by_kind_per_token"] = {k: {c: round(v / n, 2) for c, v in s.items()} for k, s in split}
            print(json.dumps(row["by_kind_per_token"]), flush=True)
        return row

    async def together(self, name: str, tokens: int, options: dict[str, Any], n: int) -> dict[str, Any]:
        """`n` requests at once, with seeds of their own."""
        await self._fresh()
        started = time.perf_counter()
        results = await asyncio.gather(
            *(self.answer(QUESTIONS[i % len(QUESTIONS)], tokens, options, seed=100 + i) for i in range(n))
        )
        for result in results:
            result.pop("engine")  # the counters are the whole engine's
        return _summary(name, results, [time.perf_counter() - started]) | {"concurrent": n}

    async def _fresh(self) -> None:
        """A running server's state: the judging prompt is in the prefix cache, and nothing of these questions."""
        if self.split is not None:
            await self.split.forget()
            await self.answer("Hello!", 1, {"max_iterations": 1, "extra_iterations": 1})
            self.split.take()


def _counters() -> dict[str, float]:
    samples = [s for metric in REGISTRY.collect() for s in metric.samples]
    found = {name: sum(s.value for s in samples if s.name == counter) for name, counter in COUNTERS.items()}
    return found if any(found.values()) else {}


def _summary(name: str, results: list[dict[str, Any]], seconds: list[float]) -> dict[str, Any]:
    committed = sum(r["committed"] for r in results)
    row: dict[str, Any] = {
        "mode": name,
        "requests": len(results),
        "committed_tokens": committed,
        "ms_per_token": round(1000 * sum(seconds) / committed, 1),
        "ms_per_token_each": [round(1000 * r["seconds"] / r["committed"], 1) for r in results],
    }
    for cost in ("searches", "drafted"):
        if cost in results[0]:
            row[f"ms_per_{cost}"] = round(1000 * sum(seconds) / max(1, sum(r[cost] for r in results)), 1)
    for count in ("calls", "drafted", "searches", "simulations", "judgements", "expansions", "widened"):
        if count in results[0]:
            row[f"{count}_per_token"] = round(sum(r[count] for r in results) / committed, 2)
    engine = [r["engine"] for r in results if r.get("engine")]
    for count in engine[0] if engine else ():
        row[f"engine_{count}_per_token"] = round(sum(e.get(count, 0) for e in engine) / committed, 2)
    outcomes = {r["outcome"] for r in results if "outcome" in r}
    if outcomes:
        row["outcomes"] = sorted(outcomes)
    print(json.dumps(row), flush=True)
    return row


def loop(tokens: int, resources: Resources) -> dict[str, Any]:
    """The batch-1 transformers loop, forced."""
    from heedful.benchmarks.scripts.rain_loop import LoopEngine

    engine = LoopEngine(bundled.prepare(bundled.MODELS[MODEL]))
    bench = Bench(ForcedEngine(engine), resources)
    asyncio.run(bench.row("warm-up", 3, {"parallel_leaves": 1}, QUESTIONS[:1]))
    engine.passes = engine.read = 0
    row = asyncio.run(bench.row("transformers loop", tokens, {"parallel_leaves": 1}, QUESTIONS[:1]))
    row["passes_per_token"] = round(engine.passes / row["committed_tokens"], 1)
    row["tokens_read_per_token"] = round(engine.read / row["committed_tokens"], 1)
    return row


async def served(options: argparse.Namespace, resources: Resources) -> list[dict[str, Any]]:
    """All that runs on the in-process engine."""
    from heedful.server.engines.vllm import start as vllm

    folder = str(bundled.prepare(bundled.MODELS[MODEL]))
    rows = []
    # Searches re-read what does not fill a block: 32 tokens are the fewest that vLLM's CPU kernels take.
    flags = ["--max-model-len", "4096", "--block-size", "32"]
    async with vllm.start(vllm.engine_arguments(folder, MODEL, flags)) as engine:
        await engine.warm_up()
        split = Split(engine)
        forced, real = Bench(ForcedEngine(split), resources, split), Bench(split, resources, split)
        fast: dict[str, Any] = {}
        reference = {"parallel_leaves": 1}
        long, short = options.tokens, options.loop_tokens
        await forced.row("warm-up", 7, fast, QUESTIONS)
        rows += [
            await real.row("plain", long, None, QUESTIONS),
            await forced.row("forced, fast", long, fast, QUESTIONS[:2]),
            await forced.row("forced, fast, short", short, fast, QUESTIONS[:1]),
            await forced.row("forced, reference, short", short, reference, QUESTIONS[:1]),
            await forced.row("forced, fast, no similarity", long, {"similarity": False}, QUESTIONS[:1]),
            await forced.row("forced, low effort", long, {"effort": "low", "gate": False}, QUESTIONS[:1]),
            await real.row("plain", long, None, QUESTIONS),
            await forced.together("forced, fast, 16 at once", short, fast, 16),
            await forced.together("forced, fast, one of these", short, fast, 1),
        ]
        budget = {"no_opinion": "continue", "max_seconds": options.budget, "when_spent": "end"}
        rows += [
            await real.row("real, fast", long, budget | fast, QUESTIONS[:1]),
            await real.row("real, reference", long, budget | reference, QUESTIONS[:1]),
            await real.row("real, fast, falls back", long, {"no_opinion": "decode"}, QUESTIONS[:1]),
        ]
    return rows


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The issue's targets. Plain decoding is measured before and after the rest; its mean counts."""
    ms = {r["mode"]: r["ms_per_token"] for r in rows}
    plain = statistics.mean(r["ms_per_token"] for r in rows if r["mode"] == "plain")
    return {
        "fast_to_plain": round(ms["forced, fast"] / plain, 2),
        "reference_to_fast": round(ms["forced, reference, short"] / ms["forced, fast, short"], 2),
        "loop_to_fast": round(ms["transformers loop"] / ms["forced, fast, short"], 2),
        "throughput_of_16_to_one": round(
            ms["forced, fast, one of these"] / ms["forced, fast, 16 at once"], 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=67)
    parser.add_argument("--loop-tokens", type=int, default=17)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of each real self-evaluation run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "rain.json")
    options = parser.parse_args()
    for variable in ("VLLM_NO_USAGE_STATS", "TQDM_DISABLE"):
        os.environ.setdefault(variable, "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    model = embedder.load(device="cpu", threads=1)  # as the server has it on two cores
    model.embed_now(["The model is loaded at its first use."])
    resources = Resources(Prompts(), Stores(Path("none"), model))
    rows = [loop(options.loop_tokens, resources), *asyncio.run(served(options, resources))]
    model.close()
    result = {
        **servers.machine(),
        "model": MODEL,
        "threads": os.environ.get(THREADS, "auto"),
        "ratios": ratios(rows),
        "rows": rows,
    }
    print(json.dumps(result["ratios"], indent=1))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
