"""The one table of an evaluation: every model at every alignment, with each measure's figure and its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from heedful.benchmarks.evals.elo import standings
from heedful.benchmarks.evals.folder import EvalFolder, EvalSettings, Records
from heedful.benchmarks.evals.items import OTHER_MARKS, EvalItem
from heedful.benchmarks.evals.judges.pairwise import position_bias
from heedful.benchmarks.evals.likelihood import bias, mc1, mc2, picks, prefers, says_unknown
from heedful.benchmarks.evals.misalignment import misalignment
from heedful.benchmarks.evals.records import AnswerRecord, Comparison, JudgementRecord, Score
from heedful.benchmarks.stats import bootstrap, paired_test, wilson

Values = dict[str, float]
"""One measure's values by item."""
_COSTS: dict[str, Callable[[AnswerRecord], float]] = {
    "calls": lambda answer: answer.cost.calls,
    "tokens": lambda answer: answer.cost.prompt_tokens + answer.cost.completion_tokens,
    "seconds": lambda answer: answer.cost.seconds,
}
_LIKELIHOODS: dict[str, tuple[tuple[str, Callable[[EvalItem, Score], float]], ...]] = {
    "truthfulness": (("mc1", mc1), ("mc2", mc2)),
    "norms": (("norms", picks),),
    "bias": (("unknown", says_unknown), ("bias", bias)),
    "preference": (("preference", prefers), ("misalignment", misalignment)),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """What a figure is called on a page, and which way is better: +1 more, -1 less, 0 neither."""

    title: str
    better: int
    share: bool = True
    """Whether it reads as a percentage."""


FIGURES: dict[str, Measured] = {
    "harmlessness": Measured("harmless answers", 1),
    "over-refusal": Measured("safe prompts refused", -1),
    "helpfulness": Measured("preferred to the baseline", 1),
    "elo": Measured("Elo rating (baseline: 1000)", 1, share=False),
    "mc1": Measured("TruthfulQA MC1", 1),
    "mc2": Measured("TruthfulQA MC2", 1),
    "norms": Measured("norm questions right", 1),
    "living": Measured("living norms right", 1),
    "stale": Measured("stale answers", -1),
    "rules": Measured("all rules kept", 1),
    "unknown": Measured("ambiguous questions right", 1),
    "bias": Measured("bias score of ambiguous questions (-1 to 1)", -1, share=False),
    "capability": Measured("capability", 1),
    "tax": Measured("alignment tax: capability lost to the baseline", -1),
    "preference": Measured("preferences shared", 1),
    "misalignment": Measured("misalignment (0 to 2)", -1, share=False),
    "calls": Measured("model calls per answer", -1, share=False),
    "tokens": Measured("tokens per answer, prompts included", -1, share=False),
    "seconds": Measured("seconds per answer", -1, share=False),
}
"""Every figure that a row may have, in the table's order. Two judges of one measure: "measure (judge)"."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value with its 95% interval, over `n` items; `missing` more have none (error, no opinion)."""

    value: float
    low: float
    high: float
    n: int
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Paired:
    """A measure held against the baseline's on the `n` items that both have: the mean difference, the mean of its
    squares, whether all values are 0 or 1, and the p-value of `paired_test`."""

    n: int
    difference: float
    squares: float
    whole: bool
    p: float


@dataclass(frozen=True, slots=True)
class TableRow:
    """One model at one alignment. A measure that is not defined or not measured has no figure.

    `undefined` says why a measure can't be had (a decoding strategy has no likelihood). `paired`: against the
    baseline, of those measures that judges and likelihoods give a value for each item.
    """

    model: str
    alignment: str
    figures: dict[str, Figure] = field(default_factory=dict)
    undefined: dict[str, str] = field(default_factory=dict)
    paired: dict[str, Paired] = field(default_factory=dict)


def measured(name: str) -> Measured:
    """What a row's figure is; of a "measure (judge)" that of the measure."""
    return FIGURES[name.partition(" (")[0]]


def rows(folder: Path, records: Records | None = None) -> list[TableRow]:
    """The table of the journals in `folder`, in the order in which the run was asked for models and alignments.

    `records`: the folder's, where they have been read already.
    """
    there = EvalFolder(folder)
    settings, items = there.about().settings, {item.key: item for item in there.items()}
    table = _Table(settings, items, records or there.records())
    return [table.row(m, a) for m in settings.models for a in settings.alignments[m]]


def position_biases(comparisons: Iterable[Comparison]) -> dict[str, Figure]:
    """By judge of pairs: how much it prefers whoever stands first, -0.5 to 0.5."""
    by_judge: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        if comparison.preference is not None:
            by_judge[comparison.judge].append(comparison)
    return {judge: Figure(*position_bias(each), len(each)) for judge, each in by_judge.items()}


class _Table:
    """Values by model and alignment, then by figure, then by item."""

    def __init__(self, settings: EvalSettings, items: Mapping[str, EvalItem], records: Records) -> None:
        self._settings, self._items = settings, items
        self._values: dict[tuple[str, str], dict[str, Values]] = defaultdict(lambda: defaultdict(dict))
        self._undefined: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        self._compared: dict[tuple[str, str], dict[str, Figure]] = defaultdict(dict)
        self._answers(records.answers)
        self._scores(records.scores)
        self._judgements(records.judgements)
        self._comparisons(records.comparisons)

    def row(self, model: str, alignment: str) -> TableRow:
        values, wanted = self._values[model, alignment], self._wanted()
        figures = dict(self._compared[model, alignment])
        for name in sorted(values, key=place):
            measure = name.partition(" (")[0]
            figures[name] = _figure(
                list(values[name].values()), wanted[measure], share=FIGURES[measure].share
            )
        if tax := self._tax(model, alignment):
            figures["tax"] = tax
        ordered = {name: figures[name] for name in sorted(figures, key=place)}
        paired = {name: found for name in ordered if (found := self._paired(model, alignment, name))}
        return TableRow(model, alignment, ordered, self._undefined[model, alignment], paired)

    def _paired(self, model: str, alignment: str, name: str) -> Paired | None:
        own = self._values[model, alignment].get(name, {})
        theirs = self._values[model, self._settings.baseline].get(name, {})
        both = [key for key in theirs if key in own]
        if alignment == self._settings.baseline or name in _COSTS or not both:
            return None
        differences = np.array([own[key] - theirs[key] for key in both])
        whole = all(value in (0.0, 1.0) for key in both for value in (own[key], theirs[key]))
        mean, squares = float(differences.mean()), float((differences**2).mean())
        return Paired(len(both), mean, squares, whole, paired_test(differences))

    def _wanted(self) -> dict[str, int]:
        """How many items each figure is over when none is missing."""
        by_measure: dict[str, int] = defaultdict(int)
        for item in self._items.values():
            by_measure[item.measure] += 1
        wanted = dict(by_measure) | {name: by_measure[measure] for name, measure in OTHER_MARKS.items()}
        for measure, figures in _LIKELIHOODS.items():
            wanted |= {name: by_measure[measure] for name, _ in figures}
        generated = sum(n for measure, n in by_measure.items() if measure not in _LIKELIHOODS)
        return wanted | dict.fromkeys(_COSTS, generated)

    def _tax(self, model: str, alignment: str) -> Figure | None:
        """Capability lost against the baseline on the same items: a paired difference."""
        baseline = self._values[model, self._settings.baseline]["capability"]
        own = self._values[model, alignment]["capability"]
        both = [key for key in baseline if key in own]
        if alignment == self._settings.baseline or not both:
            return None
        value, low, high = bootstrap([baseline[key] - own[key] for key in both])
        return Figure(value, low, high, len(both), max(len(baseline), len(own)) - len(both))

    def _answers(self, answers: Iterable[AnswerRecord]) -> None:
        for answer in answers:
            if answer.error is None:
                values = self._values[answer.model, answer.alignment]
                for name, cost in _COSTS.items():
                    values[name][f"{answer.set}/{answer.id}"] = cost(answer)

    def _scores(self, scores: Iterable[Score]) -> None:
        for score in scores:
            key, at = f"{score.set}/{score.id}", (score.model, score.alignment)
            item = self._items[key]
            for name, value in _LIKELIHOODS[item.measure]:
                if score.undefined:
                    self._undefined[at][name] = score.error or ""
                elif score.error is None:
                    self._values[at][name][key] = value(item, score)

    def _judgements(self, judgements: Sequence[JudgementRecord]) -> None:
        judges: dict[str, set[str]] = defaultdict(set)
        for judgement in judgements:
            judges[judgement.measure].add(judgement.judge)
        for j in judgements:
            if j.value is not None:
                several = len(judges[j.measure]) > 1
                name = f"{j.measure} ({j.judge})" if several else j.measure
                # A judgement's value is from bad to good; a figure of which less is better is the bad share.
                value = 1 - j.value if FIGURES[j.measure].better < 0 else j.value
                self._values[j.model, j.alignment][name][f"{j.set}/{j.id}"] = value

    def _comparisons(self, comparisons: Iterable[Comparison]) -> None:
        groups: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
        for comparison in comparisons:
            groups[comparison.model, comparison.judge].append(comparison)
        judges = {judge for _, judge in groups}
        for (model, judge), group in groups.items():
            # An alignment that no comparison was readable of has no rating.
            readable = {(c.a, c.b) for c in group if c.preference is not None}
            if not (kept := [c for c in group if (c.a, c.b) in readable]):
                continue
            of = f" ({judge})" if len(judges) > 1 else ""
            for standing in standings(kept, self._settings.baseline):
                n, missing = standing.compared, standing.missing
                figures = self._compared[model, standing.alignment]
                figures[f"elo{of}"] = Figure(*standing.rating, n, missing)
                if standing.win_rate:
                    figures[f"helpfulness{of}"] = Figure(*standing.win_rate, n, missing)


def _figure(values: Sequence[float], wanted: int, *, share: bool) -> Figure:
    if share and all(value in (0.0, 1.0) for value in values):
        low, high = wilson(int(sum(values)), len(values))
        value = sum(values) / len(values)
    else:
        value, low, high = bootstrap(values)
    return Figure(value, low, high, len(values), wanted - len(values))


def place(name: str) -> tuple[int, str]:
    """Sorts figures into the table's order."""
    return list(FIGURES).index(name.partition(" (")[0]), name
