"""Token counts as upstreams write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.strategies import Usage

_PROMPT = ("prompt_tokens", "input_tokens")
_ANSWER = ("completion_tokens", "output_tokens")


def usage_of(told: Any) -> Usage | None:
    """What an answer's `usage` says, in OpenAI's older words or its newer ones; None where it has no counts."""
    if not isinstance(told, Mapping):
        return None
    total = _count(told, ("total_tokens",))
    prompt, answer = _count(told, _PROMPT), _count(told, _ANSWER)
    if prompt is None and answer is None and total is None:
        return None
    if prompt is None:
        prompt = max(0, (total or 0) - (answer or 0))
    extra = {k: v for k, v in told.items() if k not in ("total_tokens", *_PROMPT, *_ANSWER)}
    return Usage(prompt, answer if answer is not None else max(0, (total or 0) - prompt), extra)


def _count(told: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    values = (told.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0), None)
