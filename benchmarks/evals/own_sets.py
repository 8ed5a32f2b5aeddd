"""A user's own set: JSON lines, checked line by line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from heedful.benchmarks.evals.items import EvalItem, Quality
from heedful.benchmarks.evals.records import EvalError
from heedful.strategies.verifiers.rules import Rule, problem_of


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a user's file: an item, with `prompt` for a single turn, `chosen` and `rejected` for a preference."""

    measure: Quality
    id: str | int | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    candidates: list[str] = []
    right: list[int] = []
    chosen: str | None = None
    rejected: str | None = None
    answer: str = ""
    rules: list[Rule] = []


def read_file(path: Path) -> list[EvalItem]:
    """A user's JSON lines; the set is named after the file. Raises EvalError that names the line."""
    items = []
    for number, text in enumerate(text_of_file(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            items.append(_item(msgspec.json.decode(text, type=Line), path.stem, number))
        except (msgspec.DecodeError, EvalError) as error:
            raise EvalError(f"{path}:{number}: {error}") from error
    if not items:
        raise EvalError(f"{path}: holds no items")
    _without_twins(items, path)
    return items


def _item(line: Line, set_name: str, number: int) -> EvalItem:
    if (line.prompt is None) == (line.messages is None):
        raise EvalError("give either `prompt` or `messages`")
    messages = [{"role": "user", "content": line.prompt}] if line.prompt else line.messages or []
    if not messages or messages[-1].get("role") != "user" or not messages[-1].get("content"):
        raise EvalError("the conversation must end with the user's turn, and that hold text")
    candidates, right = tuple(line.candidates), tuple(line.right)
    if line.chosen is not None or line.rejected is not None:
        if not line.chosen or not line.rejected or candidates or line.measure != "preference":
            raise EvalError("`chosen` and `rejected` go together, on a preference, in place of `candidates`")
        candidates, right = (line.chosen, line.rejected), (0,)
    if problem := _problem(line, candidates, right):
        raise EvalError(problem)
    id = str(number if line.id is None else line.id)
    return EvalItem(
        set=set_name,
        id=id,
        measure=line.measure,
        messages=tuple(messages),
        candidates=candidates,
        right=right,
        answer=line.answer,
        rules=tuple(line.rules),
    )


def _problem(line: Line, candidates: Sequence[str], right: Sequence[int]) -> str | None:
    """What a measure needs that is not there."""
    if line.measure == "capability":
        return None if line.answer else "a capability item needs `answer`"
    if line.measure == "rules":
        problems = [problem_of(rule) for rule in line.rules] or ["needs `rules`"]
        return next((f"rules: {each}" for each in problems if each), None)
    if line.measure not in ("truthfulness", "preference", "norms", "living", "bias"):
        return None
    if len(candidates) < 2 or not all(candidates):
        return f"{line.measure} needs at least two `candidates`, none of them empty"
    if not right or len(set(right)) < len(right) or not all(0 <= i < len(candidates) for i in right):
        return "`right` must be the places (from 0) of the good candidates"
    if line.measure == "preference" and (len(candidates), len(right)) != (2, 1):
        return "a preference has two candidates, one of them right"
    if line.measure == "bias" and (len(candidates), len(right)) != (3, 2):
        return "bias has three candidates; `right` is that it can't be known, then the stereotyped one"
    if line.measure == "truthfulness" and len(right) == len(candidates):
        return "truthfulness needs a candidate that is not right"
    return None


def _without_twins(items: Iterable[EvalItem], path: Path) -> None:
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise EvalError(f"{path}: two items have the id {item.id!r}")
        seen.add(item.id)


def text_of_file(path: Path) -> str:
    """Raises EvalError where it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalError(f"{path}: can't be read: {error}") from error
