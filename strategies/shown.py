"""What a client is shown of what was done for it: the `alignment` object of a response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from heedful.strategies.added import prompt_parts
from heedful.strategies.plan import Plan
from heedful.strategies.run import FLOOR, Run
from heedful.strategies.types import Usage

# Of the client's own steps under a floor: what their authors chose and no model wrote.
_NAMES = frozenset(
    "step prompt store stores form place mode id reason tokens model instead_of scopes outcome left_out "
    "passed_through action extra".split()
)
# What a store holds, in the notes of those who read it for the client.
_READ = {"norms": frozenset({"text", "source"}), "demos": frozenset({"text", "answer"})}


def describe(run: Run, plan: Plan) -> dict[str, Any]:
    """The `alignment` object of a response whose client asked for the trace, as far as it may see it.

    A decision record takes `run.trace.steps` and `run.ledger.stages`, which are whole.
    """
    stages = run.ledger.stages.items()
    if plan.shows != "full":
        stages = {name: usage for name, usage in stages if not name.startswith(FLOOR)}.items()
    told = {
        "name": plan.name,
        "pipeline": plan.steps,
        "usage": {stage: asdict(usage) for stage, usage in stages},
        "answer": None if run.ledger.answer is None else _tokens(run.ledger.answer),
        "trace": [shown for entry in run.trace.steps if (shown := note_shown(entry, plan)) is not None],
    }
    if run.trace.wish.prompt:
        # The floor's words and those of hidden calls can't be told from the client's own steps' in it.
        hidden = run.trace.given is None or (plan.shows != "full" and plan.on_the_floor)
        told["prompt"] = None if hidden or run.trace.given is None else prompt_parts(run.trace.given)
    return told


def note_shown(note: Mapping[str, Any], plan: Plan) -> Mapping[str, Any] | None:
    """One note as far as the client may see it; None: not at all."""
    if plan.shows == "full":
        return note
    if note.get("floor"):
        return None
    if plan.on_the_floor:
        own: Mapping[str, Any] = _own(note, _NAMES | _READ.get(note["step"], frozenset()))
        return own
    return note


def _tokens(usage: Usage) -> dict[str, int]:
    """What the answer itself has cost: all else of the whole usage was hidden."""
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}


def usage_shown(usage: Usage, plan: Plan) -> Usage:
    """The usage as its client may see it: the floor's part is in the sums, and not told apart."""
    details = usage.extra.get("alignment_details")
    if plan.shows == "full" or not isinstance(details, Mapping):
        return usage
    own = {name: stage for name, stage in details.items() if not name.startswith(FLOOR)}
    return Usage(usage.prompt_tokens, usage.completion_tokens, {**usage.extra, "alignment_details": own})


def without_texts(note: Any, names: frozenset[str]) -> Any:
    """Facts without texts, but for those under `names`."""
    return _own(note, names)


def _own(note: Any, names: frozenset[str], *, named: bool = False) -> Any:
    """A note without texts that a model may have written: they were not checked, and may hold what nobody is told."""
    if isinstance(note, Mapping):
        kept = {k: _own(v, names, named=k in names) for k, v in note.items()}
        return {k: v for k, v in kept.items() if v is not None}
    if isinstance(note, list | tuple):
        return [v for each in note if (v := _own(each, names, named=named)) is not None]
    return note if named or not isinstance(note, str) else None
