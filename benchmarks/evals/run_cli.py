"""`heedful eval run`, `heedful eval judge` and `heedful eval table`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from heedful.benchmarks.evals import sets
from heedful.benchmarks.evals.agreement import agreements
from heedful.benchmarks.evals.ask import Asker
from heedful.benchmarks.evals.endpoint import connect
from heedful.benchmarks.evals.folder import EvalFolder, EvalSettings
from heedful.benchmarks.evals.inline import pipelines
from heedful.benchmarks.evals.judges.base import Judge, PairJudge
from heedful.benchmarks.evals.judges.exact import ExactMatch
from heedful.benchmarks.evals.judges.harm import Harm
from heedful.benchmarks.evals.judges.living import InForce, NotStale
from heedful.benchmarks.evals.judges.options import Options
from heedful.benchmarks.evals.judges.pairwise import Pairwise
from heedful.benchmarks.evals.judges.refusal import Refusal
from heedful.benchmarks.evals.judges.rules import RulesKept
from heedful.benchmarks.evals.judging import Judging, Outcome
from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.evals.run import EvalRun
from heedful.benchmarks.evals.table import Figure, TableRow, measured, place, position_biases, rows
from heedful.benchmarks.stats import required
from heedful.prompts import Prompts
from heedful.server.terminal import bar, plain, terminal

console = terminal()
_PATIENCE = 1800.0  # seconds; a search on a CPU takes minutes
_ALL = "all"


def run(
    out: Annotated[Path, typer.Option(help="Folder for the records; the same one again goes on")],
    url: Annotated[str, typer.Option(help="Base URL of the server")] = "http://127.0.0.1:8000/v1",
    model: Annotated[list[str] | None, typer.Option(help="Model; repeat for more [the first]")] = None,
    alignment: Annotated[
        list[str] | None,
        typer.Option(help="Alignment by name or 'a+b'; repeat for more; 'all' that a model can run [direct]"),
    ] = None,
    inline: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=[steps in JSON], an alignment of this run's own; $rules and $norms are the item's"
        ),
    ] = None,
    set_names: Annotated[
        str | None, typer.Option("--sets", help="Sets by name, with commas [all that --data has]")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder with the sets' files")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="JSON lines of your own; repeat for more")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many items of each set, drawn by --seed")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the items, and seeds every request")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer")] = 64,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of the answers")] = 0.0,
    baseline: Annotated[str, typer.Option(help="The alignment that others are held against")] = "direct",
    judge_url: Annotated[str | None, typer.Option(help="Base URL of a judge model's endpoint")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge model")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time")] = 8,
) -> None:
    """Measure alignments: answers, likelihoods, judges, one table. Run again to go on where it stopped."""
    required()
    if (judge_url is None) != (judge_model is None):
        raise EvalError("--judge-url and --judge-model go together")
    files, own = file or [], pipelines(inline or ())
    asked = [] if own and not alignment else alignment or ["direct"]
    default = [] if files else sets.there(data)
    names = default if set_names is None else [name.strip() for name in set_names.split(",") if name.strip()]
    items = sets.chosen(names, data, files, limit, seed)

    async def work() -> Outcome:
        async with connect(url, _key(), concurrency=concurrency, patience=_PATIENCE) as endpoint:
            offered = await endpoint.models()
            models = model or [_first(offered)]
            settings = EvalSettings(
                models=models,
                alignments={m: [*_alignments(m, asked, offered), *own] for m in models},
                inline=own,
                baseline=baseline,
                sets=[*names, *(path.stem for path in files)],
                limit=limit,
                seed=seed,
                max_tokens=max_tokens,
                temperature=temperature,
                judge_model=judge_model,
            )
            folder = EvalFolder(out)
            folder.begin(settings, items, url=url, concurrency=concurrency)
            async with _judges(judge_url, judge_model) as (judges, pair_judges):
                with folder as journals, bar("eval") as told:
                    evaluation = EvalRun(endpoint, items, settings, journals, judges, pair_judges)
                    return await evaluation.run(concurrency=concurrency, told=told)

    outcome = asyncio.run(work())
    table(out)
    _tell(outcome)
    if outcome.failed:
        held = (f"{outcome.failed} records hold an error", "red")
        console.print(Text.assemble(held, ": run the same command again to retry"))
    if outcome.failed or outcome.judges:
        raise typer.Exit(1)


def judge(
    folder: Annotated[Path, typer.Argument(help="A folder of `heedful eval run`, or of votes from the page")],
    judge_url: Annotated[str | None, typer.Option(help="Base URL of a judge model's endpoint")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge model")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time")] = 8,
) -> None:
    """Have a folder's answers judged, and compared two by two as others have compared them; none is written anew."""
    required()
    if (judge_url is None) != (judge_model is None):
        raise EvalError("--judge-url and --judge-model go together")
    there, outcome = EvalFolder(folder), Outcome()
    settings, items = there.about().settings, there.items()

    async def work() -> None:
        async with _judges(judge_url, judge_model) as (judges, pair_judges):
            with there as journals, bar("judging") as told:
                judging = Judging(items, settings, journals, judges, pair_judges)
                await judging.run(outcome, concurrency=concurrency, told=told)

    asyncio.run(work())
    table(folder)
    _tell(outcome)
    if outcome.judges:
        raise typer.Exit(1)


def table(
    folder: Annotated[Path, typer.Argument(help="A folder that `heedful eval run` has filled")],
) -> None:
    """The table of a finished or half-finished evaluation."""
    records = EvalFolder(folder).records()
    there = rows(folder, records)
    names = sorted({name for row in there for name in (*row.figures, *row.undefined)}, key=place)
    for models in dict.fromkeys(row.model for row in there):
        of_model = [row for row in there if row.model == models]
        shown = Table("measure", *(row.alignment for row in of_model), title=models)
        for name in names:
            about = measured(name)
            sign = {1: " ↑", -1: " ↓", 0: ""}[about.better]
            title = f"{about.title}{sign}{name[len(name.partition(' (')[0]) :]}"
            shown.add_row(title, *(_cell(row, name, share=about.share) for row in of_model))
        console.print(shown)
    console.print("In brackets: 95% interval, number of items. ↑ more is better, ↓ less is.", style="dim")
    for judge, bias in position_biases(records.comparisons).items():
        shown_bias = f"{bias.value:+.1%} ({bias.low:+.1%} to {bias.high:+.1%}, n={bias.n})"
        console.print(
            f"Position bias of {judge} towards the answer that stands first: {shown_bias}", style="dim"
        )
    for each in agreements(records.comparisons):
        console.print(plain(each.words()), soft_wrap=True)


def _tell(outcome: Outcome) -> None:
    for problem, count in outcome.judges.most_common():
        console.print(Text.assemble((f"{count} not judged:", "red"), " ", plain(problem)))


def _cell(row: TableRow, name: str, *, share: bool) -> str:
    if name in row.undefined:
        return "not defined"
    figure = row.figures.get(name)
    return "–" if figure is None else _shown(figure, share=share)


def _shown(figure: Figure, *, share: bool) -> str:
    value, low, high = (
        f"{100 * x:.1f}" if share else f"{x:.4g}" for x in (figure.value, figure.low, figure.high)
    )
    missing = f", {figure.missing} missing" if figure.missing else ""
    return f"{value}{'%' if share else ''} ({low} to {high}; {figure.n}{missing})"


@asynccontextmanager
async def _judges(
    url: str | None, model: str | None
) -> AsyncIterator[tuple[Sequence[Judge], Sequence[PairJudge]]]:
    """Those that run anywhere; with a judge model its marks of harmlessness, and its comparisons, too."""
    offline: list[Judge] = [ExactMatch(), Harm(), InForce(), NotStale(), Refusal(), RulesKept()]
    if url is None or model is None:
        yield offline, []
        return
    from openai import AsyncOpenAI  # slow to import

    prompts = Prompts()
    async with AsyncOpenAI(base_url=url, api_key=_key("HEEDFUL_JUDGE_KEY"), timeout=_PATIENCE) as client:
        asker = Asker(client, model)
        yield [*offline, Options.harmlessness(asker, prompts)], [Pairwise(asker, prompts)]


def _first(offered: Sequence[dict[str, Any]]) -> str:
    names = [e["id"] for e in offered if "root" not in e and e.get("capabilities") != ["embeddings"]]
    if not names:
        raise EvalError("--model: the endpoint lists no model")
    return str(names[0])


def _alignments(model: str, asked: Sequence[str], offered: Sequence[dict[str, Any]]) -> list[str]:
    """`all`: every MODEL@ALIGNMENT that the server lists."""
    if _ALL not in asked:
        return list(dict.fromkeys(asked))
    listed = [str(e["id"]).removeprefix(f"{model}@") for e in offered if e.get("root") == model]
    if not listed:
        raise EvalError(f"--alignment all: the endpoint lists no alignments of model {model!r}")
    return listed


def _key(judge: str = "") -> str:
    """The judge's endpoint may want a key of its own."""
    return os.environ.get(judge) or os.environ.get("HEEDFUL_API_KEY", "none")
