"""What an upstream's choices must be like, so that everything behind can read them without a second look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def fault(choice: Mapping[str, Any]) -> str:
    """What of a choice is not as OpenAI's API has it, in words for the log; empty where it can be read."""
    if not isinstance(choice.get("finish_reason"), str | None):
        return "a choice's finish_reason is no string"
    if not isinstance(choice.get("text"), str | None):
        return "a choice's text is no string"
    logprobs = choice.get("logprobs")
    if logprobs is None:
        return ""
    if not isinstance(logprobs, Mapping) or not (_of_chat(logprobs) and _of_completion(logprobs)):
        return "a choice's logprobs are not as the API has them"
    return ""


def _of_chat(logprobs: Mapping[str, Any]) -> bool:
    return all(_list_of(logprobs.get(part), Mapping) for part in ("content", "refusal"))


def _of_completion(logprobs: Mapping[str, Any]) -> bool:
    return (
        _list_of(logprobs.get("tokens"), str)
        and _list_of(logprobs.get("token_logprobs"), int | float | None)
        and _list_of(logprobs.get("top_logprobs"), Mapping | None)
    )


def _list_of(value: Any, kind: Any) -> bool:
    return value is None or isinstance(value, list) and all(isinstance(v, kind) for v in value)
