"""`heedful report`: from the raw records of measurements to a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Records of `heedful bench` and `heedful eval run`; one or more"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; Markdown goes beside it [report.html in the first DIR]")
    ] = None,
    matters: Annotated[
        float, typer.Option(min=0.1, max=100, help="The smallest difference that matters, in points")
    ] = 10,
) -> None:
    """Which strategy to use with a model: one HTML page and Markdown, from raw records."""
    from heedful.benchmarks.report.inputs import read
    from heedful.benchmarks.report.page import html, markdown

    inputs = read(*folders)
    page = out or folders[0] / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html(inputs, matters / 100), encoding="utf-8")
    page.with_suffix(".md").write_text(markdown(inputs, matters / 100), encoding="utf-8")
    typer.echo(f"{page}\n{page.with_suffix('.md')}")
