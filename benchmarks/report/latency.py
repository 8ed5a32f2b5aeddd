"""Times of a benchmark's requests, as rows of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.evals.table import Figure
from heedful.benchmarks.load.records import RequestRecord
from heedful.benchmarks.load.summary import CellSummary
from heedful.benchmarks.report.inputs import unique
from heedful.benchmarks.report.measures import FIRST, LATENCY, PACE

Times = NDArray[np.float64]
"""Seconds, one for each request that had no error."""


def totals(requests: Sequence[RequestRecord]) -> Times:
    """From when a request was to be sent to its last byte."""
    return np.array([r.latency for r in requests if r.error is None])


def firsts(requests: Sequence[RequestRecord]) -> Times:
    """From when a request was to be sent to the first piece of text, where one came."""
    return np.array([r.ttft for r in requests if r.error is None and r.ttft is not None])


def figures(cell: CellSummary) -> dict[str, Figure]:
    """The percentiles of a cell, by the keys of `measures.TIMES`."""
    found: dict[str, Figure] = {}
    n = cell.requests - cell.errors
    for key, latency in ((LATENCY, cell.end_to_end), (FIRST, cell.ttft), (PACE, cell.inter_token)):
        if latency:
            percentiles = {key: latency.p50, f"{key} p90": latency.p90, f"{key} p99": latency.p99}
            found |= {k: Figure(f.value, f.low, f.high, n, cell.errors) for k, f in percentiles.items()}
    return found


def main_load(cells: Sequence[CellSummary]) -> str:
    """The load that most alignments of a model were measured under, the first of them in the file."""
    loads = unique([cell.load for cell in cells])
    return max(loads, key=lambda load: len({cell.alignment for cell in cells if cell.load == load}))
