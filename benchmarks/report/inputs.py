"""The raw records that a report is made from. All are optional; what is absent is named in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from heedful.benchmarks import journal
from heedful.benchmarks.evals import table
from heedful.benchmarks.evals.folder import EvalFolder
from heedful.benchmarks.evals.records import AnswerRecord, Comparison, EvalError, JudgementRecord, Score
from heedful.benchmarks.load.records import RequestRecord
from heedful.benchmarks.load.summary import CellSummary, summaries

T = TypeVar("T")

_WITHOUT = {
    "latency.jsonl": "no latency under load: no times to the first token, no curves",
    "latency.run.json": "not how the latency was measured",
    "answers.jsonl": "no measure of written answers, no cost of an answer",
    "scores.jsonl": "no measure that reads likelihoods (truthfulness, preference, norms)",
    "judgements.jsonl": "no judge's marks: no harmlessness, over-refusal or helpfulness",
    "comparisons.jsonl": "no Elo, no win rates, no position bias",
    "eval.run.json": "no figures of an evaluation, and not how it was run",
    "items.jsonl": "no figures of an evaluation: its items say what is measured",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """`runs` holds the settings files by name, `absent` what the report goes without for each absent file."""

    rows: list[table.TableRow] = field(default_factory=list)
    requests: list[RequestRecord] = field(default_factory=list)
    cells: list[CellSummary] = field(default_factory=list)
    answers: list[AnswerRecord] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    judgements: list[JudgementRecord] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    parts: tuple[Inputs, ...] = ()
    """Where there are several folders, what each of them holds."""

    @property
    def baselines(self) -> dict[str, str]:
        """The alignment that an evaluation held the others against, by model."""
        runs = [part.runs.get("eval.run.json", {}).get("settings", {}) for part in self.parts or (self,)]
        return {
            model: run["baseline"] for run in runs if "baseline" in run for model in run.get("models", [])
        }


def read(*folders: Path) -> Inputs:
    """Reads what is there, in one folder or in several, for example one for each model.

    Raises EvalError if there is nothing in one, for a bad settings file, and for what two folders have both measured;
    JournalError for a bad line.
    """
    parts = tuple(_read(folder) for folder in folders)
    if len(parts) == 1:
        return parts[0]
    seen: dict[str, Path] = {}
    for folder, part in zip(folders, parts, strict=True):
        cells = [f"{cell.model}@{cell.alignment}, {cell.load}" for cell in part.cells]
        for name in [*(f"{row.model}@{row.alignment}, evaluated" for row in part.rows), *cells]:
            if name in seen:
                raise EvalError(f"{folder} and {seen[name]}: both hold {name}; take one of them")
            seen[name] = folder
    named = list(zip((folder.name for folder in folders), parts, strict=True))
    return Inputs(
        rows=[row for part in parts for row in part.rows],
        requests=[request for part in parts for request in part.requests],
        cells=[cell for part in parts for cell in part.cells],
        answers=[answer for part in parts for answer in part.answers],
        scores=[score for part in parts for score in part.scores],
        judgements=[judgement for part in parts for judgement in part.judgements],
        comparisons=[comparison for part in parts for comparison in part.comparisons],
        runs={f"{name}/{file}": run for name, part in named for file, run in part.runs.items()},
        absent={f"{name}/{file}": without for name, part in named for file, without in part.absent.items()},
        parts=parts,
    )


def _read(folder: Path) -> Inputs:
    absent = {name: without for name, without in _WITHOUT.items() if not _has(folder / name)}
    records_of = [name for name in _WITHOUT if name.endswith(".jsonl") and name != "items.jsonl"]
    if not folder.is_dir() or all(name in absent for name in records_of):
        raise EvalError(
            f"{folder}: no records to report on; expected at least one of {', '.join(records_of)}"
        )

    evaluated = "eval.run.json" not in absent and "items.jsonl" not in absent
    requests = [] if "latency.jsonl" in absent else journal.read(folder / "latency.jsonl", RequestRecord)
    records = EvalFolder(folder).records()
    return Inputs(
        rows=table.rows(folder, records) if evaluated else [],
        requests=requests,
        cells=summaries(requests),
        answers=records.answers,
        scores=records.scores,
        judgements=records.judgements,
        comparisons=records.comparisons,
        runs={name: _settings(folder / name) for name in _WITHOUT if ".run." in name and name not in absent},
        absent=absent,
    )


def _has(path: Path) -> bool:
    """Whether there is something in it: a run makes its journals before it knows whether it needs them."""
    return path.exists() and path.stat().st_size > 0


def _settings(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise EvalError(f"{path}: {error}") from error


def unique(names: Sequence[T]) -> list[T]:
    """In the order of their first appearance."""
    return list(dict.fromkeys(names))
