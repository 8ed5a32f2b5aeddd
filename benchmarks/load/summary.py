"""From records to figures: percentiles with their intervals, cell by cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heedful.benchmarks.load.records import RequestRecord
from heedful.benchmarks.stats import Estimate, bootstrap, grouped_percentiles, percentiles

_SHARES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class LoadFigure:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in seconds."""

    p50: LoadFigure
    p90: LoadFigure
    p99: LoadFigure


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
    hidden_tokens: LoadFigure | None
    """Mean per answer."""
    calls: LoadFigure | None
    """Mean per answer."""
    late: float
    """The most seconds that a request went out behind its time: large, and the generator was the bottleneck."""


def summaries(records: Iterable[RequestRecord]) -> list[CellSummary]:
    """One for each cell, in the order in which cells first appear."""
    cells: dict[str, list[RequestRecord]] = {}
    for record in records:
        cells.setdefault(record.cell, []).append(record)
    return [summary(each) for each in cells.values()]


def summary(records: Sequence[RequestRecord]) -> CellSummary:
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
        ttft=_spread([r.ttft for r in good if r.ttft is not None]),
        inter_token=inter_token([r.gaps for r in good]),
        end_to_end=_spread([r.latency for r in good]),
        tokens_per_s=sum(r.answer_tokens for r in good) / wall if told else None,
        requests_per_s=len(good) / wall,
        hidden_tokens=_mean([r.hidden_tokens for r in good]),
        calls=_mean([r.calls for r in good]),
        late=max(r.sent - r.intended for r in records),
    )


def inter_token(gaps: Sequence[Sequence[float]]) -> Latency | None:
    """Percentiles (nearest rank) over all gaps of all answers; whole answers are drawn for the interval."""
    gaps = [each for each in gaps if each]
    return _latency(grouped_percentiles(gaps, _SHARES)) if gaps else None


def _spread(values: Sequence[float]) -> Latency | None:
    return _latency(percentiles(values, _SHARES)) if values else None


def _latency(estimates: Iterable[Estimate]) -> Latency:
    return Latency(*(LoadFigure(*estimate) for estimate in estimates))


def _mean(values: Sequence[float]) -> LoadFigure | None:
    return LoadFigure(*bootstrap(values)) if values else None
