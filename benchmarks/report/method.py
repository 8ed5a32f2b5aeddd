"""What readers need to judge the figures: how they were measured, what failed, and what they can't say."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from heedful.benchmarks.evals.items import VOTED
from heedful.benchmarks.report.board import Board
from heedful.benchmarks.report.inputs import Inputs, unique
from heedful.benchmarks.report.measures import HARMLESSNESS

_FEW = 100


@dataclass(frozen=True, slots=True)
class Failures:
    """How many records of a kind have no value."""

    what: str
    model: str
    alignment: str
    failed: int
    of: int


def counts(inputs: Inputs) -> list[str]:
    """How many records of each kind, and over what."""
    told = []
    if inputs.requests:
        loads = ", ".join(unique([r.load for r in inputs.requests]))
        seeds = sorted({r.seed for r in inputs.requests})
        told.append(
            f"{len(inputs.requests):,} timed requests; loads: {loads}; seeds {seeds[0]} to {seeds[-1]}"
        )
    for name, records in (("answers", inputs.answers), ("likelihood scores", inputs.scores)):
        if records:
            sets = Counter(r.set for r in records)
            told.append(f"{len(records):,} {name}; sets: {_numbered(sets)}")
    if inputs.judgements:
        judges = Counter(f"{j.measure} by {j.judge}" for j in inputs.judgements)
        told.append(f"{len(inputs.judgements):,} judgements: {_numbered(judges)}")
    if inputs.comparisons:
        for once, orders in ((False, "each in both orders"), (True, "each in one order, drawn by chance")):
            judges = Counter(c.judge for c in inputs.comparisons if c.once == once)
            if judges:
                told.append(f"{judges.total():,} comparisons, {orders}: {_numbered(judges)}")
    return told


def machines(inputs: Inputs) -> list[str]:
    """Where and when: the machines of the runs."""
    found = [run["machine"] for run in inputs.runs.values() if run.get("machine")]
    return unique([f"{m.get('cpu')}, {m.get('cores')} cores, {m.get('date')}" for m in found])


def settings(inputs: Inputs) -> list[tuple[str, list[tuple[str, str]]]]:
    """For each settings file its entries, nested ones by their path."""
    return [(name, list(_flat("", run))) for name, run in inputs.runs.items()]


def commands(inputs: Inputs) -> list[str]:
    """What makes such records, from the settings that lie beside them."""
    return [command for part in inputs.parts or (inputs,) for command in _commands(part)]


def _commands(inputs: Inputs) -> list[str]:
    made = []
    if bench := inputs.runs.get("latency.run.json", {}).get("settings"):
        loads = [load.partition(" ") for load in unique([r.load for r in inputs.requests])]
        words, _, unit = str(bench.get("prompts", "")).partition(" ")
        flags = {"closed": "concurrency", "poisson": "rate"}
        options = [
            ("url", [bench.get("url")]),
            ("model", unique([r.model for r in inputs.requests])),
            ("alignment", unique([r.alignment for r in inputs.requests])),
            *((flags.get(kind, kind), [number]) for kind, _, number in loads),
            *(
                (name, [bench.get(name)])
                for name in ("requests", "max_tokens", "seed", "warmup", "ignore_eos", "seeded")
            ),
            ("words", [words]) if unit == "words" else ("prompts", ["FILE"]),
        ]
        made.append(_command("heedful bench", options))
    run = inputs.runs.get("eval.run.json", {}).get("settings")
    if run and run.get("sets") != [VOTED]:
        named = run.get("alignments", {})
        options = [
            ("model", run.get("models", [])),
            ("alignment", unique([name for each in named.values() for name in each])),
            ("sets", [",".join(run.get("sets", []))]),
            *((name, [run.get(name)]) for name in ("limit", "seed", "max_tokens", "temperature", "baseline")),
            ("judge_model", [run.get("judge_model")]),
            ("data", ["FOLDER"]),
        ]
        made.append(_command("heedful eval run", options))
    return made


def _command(name: str, options: Sequence[tuple[str, Sequence[object]]]) -> str:
    parts = [name]
    for option, values in options:
        for value in values:
            flag = f"--{option.replace('_', '-')}"
            if value is True:
                parts.append(flag)
            elif value not in (None, False, ""):
                parts.append(f"{flag} {shlex.quote(str(value))}")
    return " ".join([*parts, "--out DIR"])


def failures(inputs: Inputs) -> list[Failures]:
    """Where something has no value; the messages stay in the records, since they may quote a prompt."""
    found: dict[tuple[str, str, str], list[bool]] = {}
    for request in inputs.requests:
        key = (f"requests, {request.load}", request.model, request.alignment)
        found.setdefault(key, []).append(request.error is not None)
    for answer in inputs.answers:
        found.setdefault(("answers", answer.model, answer.alignment), []).append(answer.error is not None)
    for score in inputs.scores:
        found.setdefault(("scores", score.model, score.alignment), []).append(
            score.error is not None and not score.undefined
        )
    for judgement in inputs.judgements:
        key = (f"judgements of {judgement.measure}", judgement.model, judgement.alignment)
        found.setdefault(key, []).append(judgement.value is None)
    return [Failures(*key, sum(failed), len(failed)) for key, failed in found.items() if any(failed)]


def limits(inputs: Inputs, boards: list[Board]) -> list[str]:
    """In plain words, those that follow from these records first."""
    told = []
    judged = [row.figures.get(each.key(HARMLESSNESS)) for each in boards for row in each.rows]
    few = sorted(figure.n for figure in judged if figure)
    if few and few[0] < _FEW:
        told.append(
            f"Harmlessness rests on as few as {few[0]} answers for an alignment: only large differences can show."
        )
    judges = unique([j.judge for j in inputs.judgements] + [c.judge for c in inputs.comparisons])
    if judges:
        told.append(
            f"The marks are those of the judges ({', '.join(judges)}), with their mistakes: the intervals hold for "
            "other items of the same kind, not for another judge. A small model is a poor judge."
        )
    if inputs.requests:
        told.append(
            "Times hold for this machine, these answers' lengths and this load; on another, measure again. "
            "Other work on the machine during the measurement shows in them."
        )
    told.append(
        "Where both have a value for each item, an alignment is told apart from the baseline by the differences on "
        "the same items: an exact test of signs of marks that are right or wrong, else one that flips signs, at 5% "
        "for all alignments of a measure together (Holm). It is not corrected for the number of measures. Other "
        "figures (times, costs, ratings) are told apart only where their 95% intervals do not overlap: stricter."
    )
    told.append("What the sets do not ask about is not measured: no strategy here is a guarantee.")
    return told


def _flat(path: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    elif isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        yield path, ", ".join(map(str, value))
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _numbered(counted: Counter[str]) -> str:
    return ", ".join(f"{name} ({number:,})" for name, number in counted.items())
