"""A raw prompt under the chat shape: legacy completions' parameters and choices, translated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHAT_ONLY = (
    "max_completion_tokens",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "chat_template",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)


def completion_params(params: Mapping[str, Any], prompt: str) -> dict[str, Any]:
    """The parameters of a chat call for /v1/completions."""
    body = {k: v for k, v in params.items() if k not in _CHAT_ONLY}
    if "max_tokens" not in body and params.get("max_completion_tokens") is not None:
        body["max_tokens"] = params["max_completion_tokens"]
    if body.get("logprobs") is True:
        body["logprobs"] = params.get("top_logprobs") or 0
    elif body.get("logprobs") is False:
        del body["logprobs"]
    return body | {"prompt": prompt}


def chat_choice(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A choice of a completion as a choice of a chat."""
    shaped = {k: v for k, v in choice.items() if k not in ("text", "logprobs")}
    logprobs = choice.get("logprobs")
    return shaped | {
        "delta": {"content": choice.get("text") or ""},
        "logprobs": {"content": _content(logprobs)} if logprobs else None,
    }


def _content(logprobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens, values = logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {**_entry(token, value), "top_logprobs": [_entry(t, v) for t, v in (top or {}).items()]}
        for token, value, top in zip(tokens, values, tops, strict=False)
    ]


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
