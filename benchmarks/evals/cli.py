"""`heedful eval`: measurements against a running server."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table

from heedful.benchmarks.alignment_option import field_of
from heedful.benchmarks.evals.norms import (
    Examiner,
    GradedAnswer,
    Question,
    examine,
    read_questions,
    record,
)
from heedful.benchmarks.evals.own_sets import text_of_file
from heedful.benchmarks.evals.questions import Made, Maker, make_all
from heedful.benchmarks.evals.records import EvalError
from heedful.benchmarks.evals.run_cli import judge, run, table
from heedful.benchmarks.stats import paired_difference, required, wilson
from heedful.prompts import Prompts
from heedful.retrieval import InvalidItem
from heedful.retrieval.ingest import parse
from heedful.server.terminal import bar, terminal

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")
evals = typer.Typer(no_args_is_help=True, help="Measure alignments against a running server.")
evals.command()(run)
evals.command()(judge)
evals.command()(table)
console = terminal()

Url = Annotated[str, typer.Option(help="Base URL of an OpenAI-compatible server")]
ModelOption = Annotated[str | None, typer.Option(help="Model; default: the server's first")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests at a time")]
_HERE = "http://127.0.0.1:8000/v1"


@evals.command()
def norms(
    questions: Annotated[Path, typer.Argument(help="CSV or JSON lines: question, A, B, …, answer")],
    url: Url = _HERE,
    model: ModelOption = None,
    baseline: Annotated[str, typer.Option(help="Alignment without norms; 'none' sends none")] = "direct",
    alignment: Annotated[str, typer.Option(help="Alignment with norms: a name, or JSON of steps")] = "norms",
    store: Annotated[str | None, typer.Option(help="Short for the alignment `norms` on this store")] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many questions")] = None,
    out: Annotated[Path | None, typer.Option(help="Every single verdict, as JSON lines")] = None,
    concurrency: Concurrency = 8,
) -> None:
    """Multiple-choice accuracy with and without norms (OPO), with 95% intervals."""
    required()
    asked = read_questions(questions)[:limit]
    with_norms: Any = [{"norms": {"store": store}}] if store else field_of(alignment)
    specs = {f"without ({baseline})": field_of(baseline), f"with ({store or alignment})": with_norms}
    verdicts = asyncio.run(_examine(url, model, specs, asked, concurrency, out))
    table = Table("alignment", "right", "of", "accuracy", "95% interval", "read by")
    for name, each in verdicts.items():
        right = sum(v.correct for v in each)
        low, high = wilson(right, len(each))
        methods = ", ".join(f"{m} {n}" for m, n in Counter(v.method for v in each).items())
        share = f"{right / max(1, len(each)):.1%}"
        table.add_row(name, str(right), str(len(each)), share, f"{low:.1%} to {high:.1%}", methods)
    console.print(table)
    before, after = ([v.correct for v in each] for each in verdicts.values())
    change, low, high = paired_difference(before, after)
    console.print(f"difference {change:+.1%}, 95% interval {low:+.1%} to {high:+.1%} (paired bootstrap)")


@evals.command("norm-questions")
def norm_questions(
    file: Annotated[Path, typer.Argument(help="Norms as JSON lines, as `heedful store export` writes them")],
    out: Annotated[Path, typer.Argument(help="The questions, as JSON lines that `heedful eval norms` reads")],
    url: Url = _HERE,
    model: ModelOption = None,
    checker: Annotated[
        str | None, typer.Option(help="The model that checks; default: the one that writes")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first so many norms")] = None,
    seed: Annotated[int, typer.Option(help="Another seed writes other questions")] = 0,
    concurrency: Concurrency = 8,
) -> None:
    """Make multiple-choice questions from norms, and keep those that pass the checks."""
    parsed = parse(text_of_file(file), "jsonl")
    if parsed.problems:
        raise InvalidItem(f"{file}:{parsed.problems[0][0]}: {parsed.problems[0][1]}")
    chosen = parsed.items[:limit]

    async def run() -> list[Made]:
        async with _client(url) as client:
            maker = Maker(client, model or await _first(client), Prompts(), checker=checker, seed=seed)
            with bar("questions") as report:
                done = 0

                def told(made: Made) -> None:
                    nonlocal done
                    done += 1
                    report("writing and checking", done / len(chosen))

                return await make_all(maker, chosen, concurrency=concurrency, told=told)

    made = asyncio.run(_reporting(run()))
    with out.open("w", encoding="utf-8") as lines:
        for each in made:
            if each.question:
                lines.write(json.dumps(_row(each.question), ensure_ascii=False) + "\n")
    console.print(f"{sum(m.question is not None for m in made)} of {len(made)} questions kept, in {out}")
    for problem, count in Counter(m.problem for m in made if m.problem).most_common():
        console.print(f"  {count} dropped: {problem}")


async def _examine(
    url: str,
    model: str | None,
    specs: dict[str, Any],
    asked: list[Question],
    concurrency: int,
    out: Path | None,
) -> dict[str, list[GradedAnswer]]:
    async def run() -> dict[str, list[GradedAnswer]]:
        prompts = Prompts()
        async with _client(url) as client:
            name = model or await _first(client)
            examiners = [Examiner(client, name, spec, prompts, title) for title, spec in specs.items()]
            with bar("questions") as report:
                seen: list[GradedAnswer] = []

                def told(verdict: GradedAnswer) -> None:
                    seen.append(verdict)
                    report("asking", len(seen) / (len(asked) * len(examiners)))
                    if lines:
                        lines.write(json.dumps(record(verdict)) + "\n")

                lines = out.open("w", encoding="utf-8") if out else None
                try:
                    return await examine(examiners, asked, concurrency=concurrency, told=told)
                finally:
                    if lines:
                        lines.close()

    return await _reporting(run())


async def _reporting(work: Coroutine[Any, Any, T]) -> T:
    """An endpoint's refusal as one line, not as a traceback."""
    from openai import APIError

    try:
        return await work
    except* APIError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise EvalError(f"the server refused: {first}") from first


def _client(url: str) -> AsyncOpenAI:
    from openai import AsyncOpenAI

    return AsyncOpenAI(base_url=url, api_key=os.environ.get("HEEDFUL_API_KEY", "none"), timeout=600)


async def _first(client: AsyncOpenAI) -> str:
    return (await client.models.list()).data[0].id


def _row(question: Question) -> dict[str, str]:
    about = {"id": question.id, "question": question.text, **dict(question.options)}
    return {**about, "answer": question.answer, "principle": question.norm, "location": question.scope}
