"""One row for each model and alignment with all that was measured: the evaluation's figures, times and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from heedful.benchmarks.evals.records import Cost
from heedful.benchmarks.evals.table import Figure, Paired, TableRow
from heedful.benchmarks.report import latency
from heedful.benchmarks.report.inputs import Inputs, unique
from heedful.benchmarks.report.measures import BY_DEFINITION, FEWEST, Compared, kind, measure, place
from heedful.benchmarks.stats import bootstrap

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Board:
    """A model's rows, the baseline's first. `load` is the one whose times are in them, None where no load was put."""

    model: str
    rows: list[TableRow]
    load: str | None

    @property
    def baseline(self) -> TableRow:
        return self.rows[0]

    @property
    def keys(self) -> list[str]:
        """The measures that any row has or says to be undefined."""
        return sorted({key for row in self.rows for key in [*row.figures, *row.undefined]}, key=place)

    def key(self, measure: str) -> str:
        """The figure of a measure: that of the first judge where there are several."""
        return next((key for key in self.keys if kind(key) == measure), measure)

    def reference(self, key: str) -> Figure | None:
        """What the others' figure is held against: the baseline's own, or what it is by definition."""
        if key in self.baseline.figures or kind(key) not in BY_DEFINITION:
            return self.baseline.figures.get(key)
        value = BY_DEFINITION[kind(key)]
        return Figure(value, value, value, n=0)

    def verdicts(self, key: str) -> dict[str, Compared | None]:
        """For each other alignment that has the figure whether it is told apart from the baseline, and how: by the
        items that both have where each has a value, else by their intervals."""
        theirs = self.reference(key)
        rows = [row for row in self.rows[1:] if key in row.figures]
        if theirs is None:
            return {}
        found = apart({row.alignment: row.paired[key] for row in rows if key in row.paired})
        return {
            row.alignment: _better(row.paired[key].difference, key)
            if row.alignment in found
            else None
            if key in row.paired
            else measure(key).verdict(row.figures[key], theirs)
            for row in rows
        }


def apart(paired: Mapping[str, Paired]) -> set[str]:
    """Those whose differences chance does not explain: at 5% for all of them together (Holm 1979)."""
    found: set[str] = set()
    enough = {name: each.p for name, each in paired.items() if each.n >= FEWEST}
    for left, name in zip(range(len(enough), 0, -1), sorted(enough, key=lambda n: enough[n]), strict=True):
        if enough[name] > ALPHA / left:
            break
        found.add(name)
    return found


def _better(difference: float, key: str) -> Compared | None:
    better = measure(key).better
    return None if better is None else "better" if (difference > 0) == (better == "higher") else "worse"


def boards(inputs: Inputs) -> list[Board]:
    """One for each model, in the order of the records, with the times of the load that most were measured under."""
    made = []
    for model in unique([model for model, _ in _pairs(inputs)]):
        cells = [cell for cell in inputs.cells if cell.model == model]
        load = latency.main_load(cells) if cells else None
        times = {cell.alignment: latency.figures(cell) for cell in cells if cell.load == load}
        measured = {row.alignment: row for row in inputs.rows if row.model == model}
        rows = []
        for name in alignments(inputs, model):
            row = measured.get(name, TableRow(model, name))
            figures = times.get(name, {}) | _costs(inputs, model, name, load) | row.figures
            if figures or row.undefined:
                rows.append(TableRow(model, name, figures, row.undefined, row.paired))
        made.append(Board(model, rows, load))
    return made


def loads(inputs: Inputs, model: str) -> list[Board]:
    """A model's times under each load."""
    made = []
    for load in unique([cell.load for cell in inputs.cells if cell.model == model]):
        cells = {c.alignment: c for c in inputs.cells if c.model == model and c.load == load}
        rows = [
            TableRow(model, a, latency.figures(cells[a])) for a in alignments(inputs, model) if a in cells
        ]
        made.append(Board(model, rows, load))
    return made


def alignments(inputs: Inputs, model: str | None = None) -> list[str]:
    """All alignments of the report, a model's baseline first: the evaluation's, else `direct`, else the first one."""
    names = unique([alignment for _, alignment in _pairs(inputs)])
    baseline = inputs.baselines.get(model or "", "direct")
    return sorted(names, key=lambda name: name != baseline)


def _pairs(inputs: Inputs) -> list[tuple[str, str]]:
    """Models and alignments, in the order of the records."""
    rows = [(row.model, row.alignment) for row in inputs.rows]
    cells = [(cell.model, cell.alignment) for cell in inputs.cells]
    return unique([*rows, *cells, *((a.model, a.alignment) for a in inputs.answers)])


def _costs(inputs: Inputs, model: str, alignment: str, load: str | None) -> dict[str, Figure]:
    """Means over the evaluation's answers, or over the benchmark's where those do not tell them for all of a model's.

    An evaluation that only has `usage` can't say what of a search's or a refinement's tokens was the answer; the
    benchmark counts it.
    """
    answers = [a for a in inputs.answers if a.model == model and a.error is None]
    costs = [a.cost for a in answers if a.alignment == alignment]
    cell = [r for r in inputs.requests if (r.model, r.alignment, r.load) == (model, alignment, load)]
    done = [r for r in cell if r.error is None]
    timed = any(r.completion_tokens for r in done)
    if any(c.completion_tokens for c in costs) and (_split(a.cost for a in answers) or not timed):
        read = _TOKENS | {"seconds": lambda cost: cost.seconds}
        if not _split(costs):
            read = {key: value for key, value in read.items() if key != "answer tokens"}
        else:
            read["hidden tokens"] = lambda cost: cost.completion_tokens - cost.answer_tokens
        missing = sum(
            a.error is not None for a in inputs.answers if (a.model, a.alignment) == (model, alignment)
        )
        return _means(costs, read, missing)
    if not timed:
        return {}
    return _means(done, _TOKENS | {"hidden tokens": lambda r: r.hidden_tokens}, len(cell) - len(done))


def _split(costs: Iterable[Cost]) -> bool:
    """Whether all say what of their tokens was the answer."""
    return all(cost.answer_tokens is not None for cost in costs)


Read = Callable[..., float]
_TOKENS: dict[str, Read] = {
    "prompt tokens": lambda cost: cost.prompt_tokens,
    "answer tokens": lambda cost: cost.answer_tokens,
    "calls": lambda cost: cost.calls,
}


def _means(records: Sequence[object], read: dict[str, Read], missing: int) -> dict[str, Figure]:
    drawn = {key: bootstrap([value(record) for record in records]) for key, value in read.items()}
    return {key: Figure(*figure, n=len(records), missing=missing) for key, figure in drawn.items()}
