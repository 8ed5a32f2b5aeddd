"""Token counts as upstreams write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.strategies import Usage

_PROMPT = ("prompt_tokens", "input_tokens")
_ANSWER = ("completion_tokens", "output_tokens")
_COUNTS = frozenset({"total_tokens", *_PROMPT, *_ANSWER})


def usage_of(told: Any) -> Usage | None:
    """What an answer's `usage` says, in OpenAI's older words or its newer ones; None where it has no counts."""
    if not isinstance(told, Mapping):
        return None
    prompt, answer = told.get("prompt_tokens"), told.get("completion_tokens")
    if type(prompt) is int and type(answer) is int and prompt >= 0 and answer >= 0:  # as nearly all say it
        return Usage(prompt, answer, {k: v for k, v in told.items() if k not in _COUNTS})
    total = _count(told, ("total_tokens",))
    prompt, answer = _count(told, _PROMPT), _count(told, _ANSWER)
    if prompt is None and answer is None and total is None:
        return None
    if prompt is None:
        prompt = max(0, (total or 0) - (answer or 0))
    extra = {k: v for k, v in told.items() if k not in _COUNTS}
    return Usage(prompt, answer if answer is not None else max(0, (total or 0) - prompt), extra)


def _count(told: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    values = (told.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)
