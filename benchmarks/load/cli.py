"""`heedful bench`: measures the latency of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heedful.benchmarks.load.records import BenchError, RequestRecord
from heedful.server.terminal import bar, terminal

if TYPE_CHECKING:
    from heedful.benchmarks.load.arrivals import Load
    from heedful.benchmarks.load.folder import LoadSettings
    from heedful.benchmarks.load.workload import Workload

_WORDS = 100


def bench(
    url: Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server")] = (
        "http://127.0.0.1:8000/v1"
    ),
    model: Annotated[
        list[str] | None, typer.Option(help="Model; may be repeated [the server's first]")
    ] = None,
    alignment: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, a+b, a JSON list of steps, 'none' (sends none) or 'all'; may be repeated [none]"
        ),
    ] = None,
    concurrency: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Closed loop with so many at a time; may be repeated [1]"),
    ] = None,
    rate: Annotated[
        list[float] | None, typer.Option(help="Open loop with so many a second; may be repeated")
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each cell")] = 100,
    prompts: Annotated[
        Path | None, typer.Option(help="JSON lines: messages, prompt, question, instruction or turns")
    ] = None,
    words: Annotated[
        int | None, typer.Option(min=1, help=f"Or: generated prompts of so many words [{_WORDS}]")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer")] = 128,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Every answer as long as that (vLLM and heedful)")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of arrivals and prompts")] = 0,
    seeded: Annotated[
        bool, typer.Option("--seeded", help="Ask for sampling with a seed too, so that answers repeat")
    ] = False,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before each cell that do not count")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of the records; a second run goes on there")] = Path(
        "bench"
    ),
) -> None:
    """Measure latency: first token, between tokens, whole answer, for every model, alignment and load."""
    from heedful.benchmarks.load.arrivals import Closed, Poisson
    from heedful.benchmarks.load.folder import LoadSettings
    from heedful.benchmarks.load.summary import summaries
    from heedful.benchmarks.load.terminal import shown
    from heedful.benchmarks.load.workload import Words, read
    from heedful.benchmarks.stats import required

    required()
    if prompts is not None and words is not None:
        raise BenchError("--prompts and --words: give one of them")
    for each in rate or ():
        if not 0 < each < float("inf"):
            raise BenchError(f"--rate: must be above 0, not {each}")
    workload = read(prompts) if prompts is not None else Words(words or _WORDS, seed)
    loads: list[Load] = [Closed(c) for c in concurrency or ([] if rate else [1])]
    loads += [Poisson(r, seed) for r in rate or ()]
    settings = LoadSettings(
        url.rstrip("/"), workload.name, requests, warmup, max_tokens, ignore_eos, seed, seeded
    )
    records = asyncio.run(_measure(settings, workload, loads, model or [], alignment or ["none"], out))
    terminal().print(shown(summaries(records)))
    typer.echo(f"{len(records)} records in {out / 'latency.jsonl'}")


async def _measure(
    settings: LoadSettings,
    workload: Workload,
    loads: Sequence[Load],
    models: Sequence[str],
    alignments: Sequence[str],
    out: Path,
) -> list[RequestRecord]:
    """The records of all cells that the options name, those of an earlier run included."""
    from heedful.benchmarks.load.cell import Cell
    from heedful.benchmarks.load.client import LoadEndpoint
    from heedful.benchmarks.load.folder import opened
    from heedful.benchmarks.load.sweep import sweep
    from heedful.benchmarks.load.targets import targets

    try:
        async with LoadEndpoint(settings.url) as endpoint:
            # Asked before the folder is made: one of an endpoint that is not there would be in the way.
            found = await targets(endpoint, models, alignments)
            cells = [Cell(target, load, settings, workload) for target in found for load in loads]
            names = {cell.name for cell in cells}
            with opened(out, settings) as journal, bar("latency") as told:
                await sweep(endpoint, cells, journal, told)
                records = [record for record in journal if record.cell in names]
    except* BenchError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return records
