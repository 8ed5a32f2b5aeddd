"""`heedful recommend`: which alignment, with which setting, for this budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def recommend(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR", help="Records of `heedful eval run`")],
    goal: Annotated[
        str, typer.Option(help="A figure of `heedful eval table`: living, rules, harmlessness, …")
    ],
    budget: Annotated[
        str | None,
        typer.Option(help="For an answer in the mean: 3x, 2x seconds, 500 tokens, 1.5s, 4 calls [none]"),
    ] = None,
) -> None:
    """Says in two sentences which alignment to take for a goal, and what that rests on."""
    from heedful.benchmarks.report.board import boards
    from heedful.benchmarks.report.inputs import read
    from heedful.benchmarks.report.recommend import CostLimit
    from heedful.benchmarks.report.recommend import recommend as said

    most = None if budget is None else CostLimit.of(budget)
    for board in boards(read(*folders)):
        typer.echo(said(board, goal, most))
