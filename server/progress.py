"""Progress bars in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from heedful.server.terminal import terminal


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
