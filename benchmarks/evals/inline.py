"""Alignments that a run brings itself, NAME=JSON, in which the rules of the item asked may stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from heedful.benchmarks.evals.items import EvalItem
from heedful.benchmarks.evals.records import EvalError
from heedful.strategies.verifiers.rules import told

RULES, NORMS = "$rules", "$norms"
"""Stand for the item's rules as the verifier `rules` takes them, and as norms that the strategy `norms` takes."""


def pipelines(given: Iterable[str]) -> dict[str, list[Any]]:
    """By name, from NAME=JSON. Raises EvalError."""
    made: dict[str, list[Any]] = {}
    for each in given:
        name, sign, text = each.partition("=")
        try:
            steps = msgspec.json.decode(text) if sign else None
        except msgspec.DecodeError as error:
            raise EvalError(f"--inline {name}: {error}") from error
        if not name or not isinstance(steps, list) or name in made:
            raise EvalError(f"--inline {each}: give NAME=[a list of steps in JSON], each name once")
        made[name] = steps
    return made


def of_item(steps: Any, item: EvalItem) -> Any:
    """The steps with what the item has in the places of RULES and NORMS."""
    if steps == RULES:
        return list(item.rules)
    if steps == NORMS:
        return [{"text": told(rule), "mandatory": True} for rule in item.rules]
    if isinstance(steps, dict):
        return {name: of_item(value, item) for name, value in steps.items()}
    return [of_item(value, item) for value in steps] if isinstance(steps, list) else steps
