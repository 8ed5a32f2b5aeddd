"""Measures cell after cell, and goes on where a killed run stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from heedful.benchmarks.journal import Journal
from heedful.benchmarks.load.cell import Cell
from heedful.benchmarks.load.client import LoadEndpoint
from heedful.benchmarks.load.records import RequestRecord

OnCell = Callable[[str, float], None]
"""Progress: what is being measured, and the share done."""


async def sweep(
    endpoint: LoadEndpoint, cells: Sequence[Cell], journal: Journal[RequestRecord], told: OnCell
) -> None:
    """Measures every cell that the journal has not whole.

    A cell cut off half-way is measured again from its start: what its requests met is no longer there. So is one in
    which nothing was answered. Raises BenchError where the endpoint has gone.
    """
    for done, cell in enumerate(cells):

        def report(answered: int, cell: Cell = cell, done: int = done) -> None:
            told(cell.name, (done + answered / cell.settings.requests) / len(cells))

        report(0)
        if not _whole(cell, journal):
            await endpoint.get("/models")  # still there? else all that follows would be errors
            for record in await cell.measure(endpoint, report):
                journal.add(record)
        report(cell.settings.requests)


def _whole(cell: Cell, journal: Journal[RequestRecord]) -> bool:
    keys = [f"{cell.name}/{index}" for index in range(cell.settings.requests)]
    return all(key in journal for key in keys) and any(journal[key].error is None for key in keys)
