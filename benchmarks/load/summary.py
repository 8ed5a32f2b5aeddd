"""From records to figures: percentiles with their intervals, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heedful.benchmarks.intervals import Statistic, bootstrap, mean, percentile
from heedful.benchmarks.load.records import Request


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in seconds."""

    p50: Figure
    p90: Figure
    p99: Figure


@dataclass(frozen=True, slots=True)
class CellSummary:
    """What one model under one alignment and load showed. None where no request gave the figure."""

    model: str
    alignment: str
    load: str
    requests: int
    errors: int
    error: str | None
    """The first one."""
    ttft: Latency | None
    inter_token: Latency | None
    end_to_end: Latency | None
    tokens_per_s: float | None
    """Answer tokens of the whole cell by its wall time. None where the endpoint reports no usage."""
    requests_per_s: float
    """Answered, without error."""
    hidden_tokens: Figure | None
    """Mean per answer."""
    calls: Figure | None
    """Mean per answer."""
    late: float
    """The most seconds that a request went out behind its time: large, and the generator was the bottleneck."""


def summaries(records: Iterable[Request]) -> list[CellSummary]:
    """One for each cell, in the order in which cells first appear."""
    cells: dict[str, list[Request]] = {}
    for record in records:
        cells.setdefault(record.cell, []).append(record)
    return [summary(each) for each in cells.values()]


def summary(records: Sequence[Request]) -> CellSummary:
    """Of one cell. Requests with errors count in `errors` alone. Raises ValueError for no record."""
    if not records:
        raise ValueError("no records, so no summary")
    good = [r for r in records if r.error is None]
    wall = max(r.end for r in records)
    of = records[0]
    told = any(r.completion_tokens for r in good)
    return CellSummary(
        model=of.model,
        alignment=of.alignment,
        load=of.load,
        requests=len(records),
        errors=len(records) - len(good),
        error=next((r.error for r in records if r.error is not None), None),
        ttft=_latency([r.ttft for r in good if r.ttft is not None], percentile),
        inter_token=inter_token([r.gaps for r in good]),
        end_to_end=_latency([r.latency for r in good], percentile),
        tokens_per_s=sum(r.answer_tokens for r in good) / wall if told else None,
        requests_per_s=len(good) / wall,
        hidden_tokens=_mean([r.hidden_tokens for r in good]),
        calls=_mean([r.calls for r in good]),
        late=max(r.sent - r.intended for r in records),
    )


def inter_token(gaps: Sequence[Sequence[float]]) -> Latency | None:
    """Percentiles (nearest rank) over all gaps of all answers.

    Gaps of one answer are alike, so whole answers are drawn for the interval, not single gaps.
    """
    gaps = [each for each in gaps if each]
    if not gaps:
        return None
    values = np.concatenate([np.asarray(each) for each in gaps])
    owner = np.repeat(np.arange(len(gaps)), [len(each) for each in gaps])
    order = np.argsort(values, kind="stable")
    values, owner = values[order], owner[order]

    def statistic(q: float) -> Statistic:
        def one(answers: NDArray[np.float64]) -> float:
            weights = np.bincount(answers.astype(np.int64), minlength=len(gaps))[owner]
            reached = np.cumsum(weights)
            return float(values[np.searchsorted(reached, q / 100 * reached[-1])])

        return lambda samples: np.asarray([one(answers) for answers in samples])

    return _latency(range(len(gaps)), statistic)


def _latency(values: Sequence[float], statistic: Callable[[float], Statistic]) -> Latency | None:
    if not values:
        return None
    return Latency(*(Figure(*bootstrap(values, statistic(q))) for q in (50, 90, 99)))


def _mean(values: Sequence[float]) -> Figure | None:
    return Figure(*bootstrap(values, mean)) if values else None
