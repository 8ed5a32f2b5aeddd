"""What is printed for people: text as it is, whatever a model, a file or an upstream has put into it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

# All but tabs and line feeds: an escape sequence in an answer would move the cursor, or worse.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CELL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def terminal(*, stderr: bool = False) -> Console:
    """A console that takes no text for markup or for a code of an emoji; styles come as `Text` or `style=`."""
    return Console(stderr=stderr, markup=False, emoji=False)


def plain(text: str, style: str = "") -> Text:
    """Somebody else's text, unable to steer the terminal."""
    return Text(_CONTROL.sub("\ufffd", text), style=style)


def listing(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows in columns, onto standard output, each on one line and nothing of it cut or broken, however narrow the
    terminal is: an id is there to be copied, and a line to be searched for."""
    lines = [[_CELL.sub("\ufffd", str(cell)) for cell in row] for row in (headers, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    out = terminal()
    for style, line in zip(chain(["bold"], repeat("")), lines, strict=False):
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
        out.print(Text("  ".join(padded).rstrip(), style=style), soft_wrap=True, highlight=False)


@contextmanager
def bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar that shows a step's name and the share done, 0 to 1. Nothing appears until the first report."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=terminal(stderr=True))
    task = None

    def report(step: str, share: float) -> None:
        nonlocal task
        if task is None:
            progress.start()
            task = progress.add_task(title, total=1.0)
        progress.update(task, completed=share, description=f"{title}: {step}")

    try:
        yield report
    finally:
        if task is not None:
            progress.stop()
