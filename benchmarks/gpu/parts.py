"""What is measured, part by part: each yields rows, which are written as they come.

Run by `run.py`, each in a process of its own: python -m heedful.benchmarks.gpu.parts PART --setting FILE --out FILE
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
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from heedful.benchmarks.gpu.plan import ROOT
from heedful.benchmarks.gpu.setting import Setting
from heedful.benchmarks.machine import gpu
from heedful.benchmarks.scripts import servers, serving

PartRow = dict[str, Any]
ALIGNMENTS: dict[str, list[Any]] = {
    "direct": [],
    "principles": ["principles"],
    "urial": ["urial"],
    "norms": ["norms"],
    "demos": ["demos"],
    "refine": [{"refine": {"verifiers": ["self"]}}],
    "best_of_n": ["best_of_n"],
    "blockwise": ["blockwise"],
    "tpo": [{"tpo": {"verifiers": ["self"]}}],
    "align3": ["align3"],
    # This model has no opinion as a judge; what the search costs is asked all the same, within a bound.
    "rain": [{"rain": {"no_opinion": "continue", "max_seconds": 8, "when_spent": "end"}}],
}
# Two servers share a card: each gets a fixed cache, so that what one takes is not missed by the other.
SHARED = ("--gpu-memory-utilization", "0.4", "--kv-cache-memory-bytes", "8G")
TESTS = (
    "tests/test_vllm_engine.py",
    "tests/test_score.py",
    "tests/test_vllm_cancel.py",
    "tests/rain/test_rain_engine.py",
    "tests/test_refine_engine.py",
    "tests/test_blockwise_engine.py",
    "tests/test_tools.py",
    "tests/test_wire_parity.py",
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is asked."""

    streams: tuple[int, ...]
    rounds: int
    tokens: int  # of RAIN's longer answers
    short: int  # of its shorter ones
    at_once: int
    texts: tuple[int, ...]
    select: str  # of the tests


_NOT_BASE = (
    "not base and not own_stops and not past_the_context"  # tests of the base model, which does not travel
)
FULL = Scale((1, 8, 32, 128), 3, 67, 17, 16, (1, 8, 64, 512), _NOT_BASE)
TINY = Scale((1, 2), 1, 5, 3, 2, (1, 8), "test_models_are_listed")


def engine(setting: Setting, scale: Scale) -> Iterator[PartRow]:
    """That a model loads in this setting, and what its first answers take."""
    from heedful.server.engines.vllm import start
    from heedful.server.models import bundled
    from heedful.strategies import Extension

    async def main() -> PartRow:
        folder = str(bundled.prepare(bundled.MODELS[serving.CHAT]))
        began = time.perf_counter()
        flags = ["--max-model-len", "4096", *setting.flags]
        async with start.start(start.engine_arguments(folder, serving.CHAT, flags)) as engine:
            loaded = time.perf_counter()
            ids = await engine.render([{"role": "user", "content": "Name three colours."}])
            first = await engine.extend(Extension(ids, max_tokens=1, temperature=0.0))
            answered = time.perf_counter()
            await engine.warm_up()
            warm = time.perf_counter()
            written = await engine.extend(Extension(ids, max_tokens=65, temperature=0.0, ignore_eos=True))
            ended = time.perf_counter()
            return {
                "dtype": engine.note,
                "load_s": round(loaded - began, 1),
                "first_token_s": round(answered - loaded, 2),
                "warm_up_s": round(warm - answered, 1),
                "tokens_per_s": round(65 / (ended - warm), 1),
                "first": first[0].text,
                "text": written[0].text,
            }

    yield asyncio.run(main())


def rain(setting: Setting, scale: Scale) -> Iterator[PartRow]:
    """RAIN beside plain decoding, in this process: ms and steps of the engine a token."""
    from heedful.benchmarks.scripts.rain import MODEL, QUESTIONS, Bench, ForcedEngine
    from heedful.benchmarks.scripts.rain_split import Split
    from heedful.prompts import Prompts
    from heedful.retrieval.embedding import embedder
    from heedful.retrieval.store.stores import Stores
    from heedful.server.engines.vllm import start
    from heedful.server.models import bundled
    from heedful.strategies import Resources

    model = embedder.load(device="cpu", threads=max(1, (os.cpu_count() or 1) // 4))
    model.embed_now(["The model is loaded at its first use."])
    resources = Resources(Prompts(), Stores(Path("none"), model))
    long, short = scale.tokens, scale.short

    async def rows() -> AsyncIterator[PartRow]:
        folder = str(bundled.prepare(bundled.MODELS[MODEL]))
        flags = ["--max-model-len", "4096", *setting.flags]
        async with start.start(start.engine_arguments(folder, MODEL, flags)) as engine:
            await engine.warm_up()
            split = Split(engine)
            forced, real = Bench(ForcedEngine(split), resources, split), Bench(split, resources, split)
            reference = {"parallel_leaves": 1}
            await forced.row("warm-up", short, {}, QUESTIONS)
            yield await real.row("plain", long, None, QUESTIONS)
            yield await forced.row("forced, fast", long, {}, QUESTIONS[:2])
            yield await forced.row("forced, fast, short", short, {}, QUESTIONS[:1])
            yield await forced.row("forced, reference, short", short, reference, QUESTIONS[:1])
            yield await forced.together(f"forced, fast, {scale.at_once} at once", short, {}, scale.at_once)
            yield await forced.together("forced, fast, one of these", short, {}, 1)
            yield await forced.row("forced, fast, no similarity", long, {"similarity": False}, QUESTIONS[:1])
            yield await forced.row(
                "forced, low effort", long, {"effort": "low", "gate": False}, QUESTIONS[:1]
            )
            yield await real.row("plain", long, None, QUESTIONS)

    try:
        yield from _each(rows())
    finally:
        model.close()


def serve(setting: Setting, scale: Scale) -> Iterator[PartRow]:
    """URIAL's second request; heedful beside vLLM's own server; every strategy's time to answer."""
    flags = ["--max-model-len", "4096", *setting.flags, *(SHARED if gpu() else ())]
    with ExitStack() as stack:
        ours = stack.enter_context(servers.heedful(serving.CHAT, *flags))
        yield {"kind": "urial", **asyncio.run(serving.urial(ours, serving.CHAT))}
        for name, pipeline in ALIGNMENTS.items():
            yield asyncio.run(_answer(ours, name, pipeline, scale))
        theirs = stack.enter_context(servers.vllm(serving.CHAT, *flags))
        for streams in scale.streams:
            row = serving.in_turn({"heedful": ours, "vllm": theirs}, streams, scale.rounds)
            yield {"kind": "direct", **row}


async def _answer(url: str, name: str, pipeline: list[Any], scale: Scale) -> PartRow:
    """Seconds to the first text and to the end of an answer of up to 64 tokens, each the median of three."""
    times: list[tuple[float, float]] = []
    body = {"model": serving.CHAT, "max_tokens": min(64, scale.tokens), "seed": 1, "stream": True}
    try:
        async with aiohttp.ClientSession() as session:
            for topic in ("bread", "rain", "trains", "maps")[: 1 + scale.rounds]:
                messages = [{"role": "user", "content": f"Tell me about {topic}."}]
                asked = {**body, "messages": messages, "alignment": {"pipeline": pipeline or ["direct"]}}
                times.append(await _timed(session, url, asked))
    except (aiohttp.ClientError, RuntimeError) as error:
        return {"kind": "strategy", "name": name, "error": str(error)}
    first, whole = (statistics.median(column) for column in zip(*(times[1:] or times), strict=True))
    return {
        "kind": "strategy",
        "name": name,
        "first_ms": round(1000 * first, 1),
        "ms": round(1000 * whole, 1),
    }


async def _timed(session: aiohttp.ClientSession, url: str, body: PartRow) -> tuple[float, float]:
    began, first = time.perf_counter(), None
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        if response.status != 200:
            raise RuntimeError(await response.text())
        async for line in response.content:
            if line.startswith(b'data: {"error"'):
                raise RuntimeError(line.decode())
            if first is None and b'"content":"' in line and b'"content":""' not in line:
                first = time.perf_counter() - began
    whole = time.perf_counter() - began
    return (whole if first is None else first), whole


def embedding(setting: Setting, scale: Scale) -> Iterator[PartRow]:
    """The bundled embedding model on the card and on this processor; medians."""
    import random

    import numpy as np

    from heedful.benchmarks.scripts.retrieval_load import question
    from heedful.retrieval.embedding.encoder import BUNDLED
    from heedful.retrieval.embedding.encoding import in_pytorch, model

    threads = max(1, (os.cpu_count() or 1) // 4)
    ways = {"cpu": in_pytorch(model(BUNDLED, "cpu", threads))}
    if gpu():
        ways["gpu"] = in_pytorch(model(BUNDLED, "cuda", threads))
    dice = random.Random(0)
    for size in scale.texts:
        row: PartRow = {"texts": size, "threads": threads}
        for name, encode in ways.items():
            times = []
            for _ in range(12):
                batch = [question(dice) for _ in range(size)]
                began = time.perf_counter()
                encode(batch)
                times.append(time.perf_counter() - began)
            row[f"{name}_ms"] = round(1000 * float(np.median(times[2:])), 2)
        yield row


def tests(setting: Setting, scale: Scale) -> Iterator[PartRow]:
    """The suite's tests of the engine, but those of the base model: how many passed, and what failed."""
    report = Path(os.environ.get("TMPDIR", "/tmp"), f"tests-{os.getpid()}.xml")
    command = [sys.executable, "-m", "pytest", *TESTS, f"--junitxml={report}", "-q", "--timeout=60"]
    # An engine's start, in a fixture, is held by the part's own limit.
    command += ["-k", scale.select, "-p", "no:cacheprovider", "-o", "timeout_func_only=true"]
    status = subprocess.run(command, cwd=ROOT).returncode
    if not report.exists():
        yield {"error": f"pytest ended with {status} and wrote no report"}
        return
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {
        f"{case.get('classname')}::{case.get('name')}": (found.get("message") or "")[:1000]
        for case in cases
        for kind in ("failure", "error")
        if (found := case.find(kind)) is not None
    }
    skipped = sum(case.find("skipped") is not None for case in cases)
    yield {"status": status, "run": len(cases) - skipped, "skipped": skipped, "failed": failed}


PARTS: dict[str, Callable[[Setting, Scale], Iterator[PartRow]]] = {
    part.__name__: part for part in (engine, rain, serve, embedding, tests)
}


def _each(rows: AsyncIterator[PartRow]) -> Iterator[PartRow]:
    """What comes asynchronously, one by one."""
    with asyncio.Runner() as runner:

        async def following() -> PartRow | None:
            return await anext(rows, None)

        while (row := runner.run(following())) is not None:
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("--setting", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    options = parser.parse_args()
    setting = Setting.read(options.setting)
    with options.out.open("a") as out:
        for row in PARTS[options.part](setting, TINY if options.rehearse else FULL):
            out.write(json.dumps(row) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
