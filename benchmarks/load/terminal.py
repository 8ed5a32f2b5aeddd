"""The figures in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from heedful.benchmarks.load.summary import CellSummary, LoadFigure
from heedful.server.terminal import plain

_LATE = 0.05  # seconds behind its plan from which a generator is worth a warning


def shown(cells: Iterable[CellSummary]) -> Group:
    """Each cell: what was answered and at what cost, then milliseconds with 95% intervals."""
    return Group(*(part for cell in cells for part in (_line(cell), _table(cell))))


def _line(cell: CellSummary) -> Text:
    facts = [f"{cell.requests - cell.errors} of {cell.requests} answered, {cell.requests_per_s:.2f} a second"]
    if cell.tokens_per_s is not None:
        facts.append(f"{cell.tokens_per_s:.1f} tokens/s")
    if cell.calls is not None and cell.hidden_tokens is not None:
        facts.append(
            f"{cell.calls.value:.1f} calls and {cell.hidden_tokens.value:.1f} hidden tokens an answer"
        )
    line = Text.assemble(
        plain(f"{cell.model}@{cell.alignment}, {cell.load}", "bold"), f": {'; '.join(facts)}"
    )
    if cell.error is not None:
        line.append("\n").append_text(
            plain(f"{cell.errors} failed, the first with: {cell.error[:200]}", "red")
        )
    if cell.late > _LATE:
        line.append(f"\nsent up to {cell.late:.2f} s late: this machine can't make that load", "yellow")
    return line


def _table(cell: CellSummary) -> Table:
    table = Table("ms", "p50", "p90", "p99", box=box.SIMPLE_HEAD, padding=(0, 1))
    latencies = (
        ("first token", cell.ttft),
        ("between tokens", cell.inter_token),
        ("whole answer", cell.end_to_end),
    )
    for name, latency in latencies:
        figures = ("–",) * 3 if latency is None else map(_figure, (latency.p50, latency.p90, latency.p99))
        table.add_row(name, *figures)
    return table


def _figure(figure: LoadFigure) -> str:
    seconds = (figure.value, figure.low, figure.high)
    value, low, high = (f"{1e3 * s:.0f}" if s >= 0.1 else f"{1e3 * s:.1f}" for s in seconds)
    return f"{value} ({low}–{high})"
