"""A chat as vLLM's /tokenize takes it: the same template with the same tools, and no limit on the length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from heedful.strategies import Message, RequestError

_SAME = ("tools", "chat_template", "add_special_tokens", "mm_processor_kwargs", "media_io_kwargs")


def tokenize_body(messages: Sequence[Message], params: Mapping[str, Any]) -> dict[str, Any]:
    """The request's body without its model. `params` are a chat's; of them it knows few."""
    begun = bool(params.get("continue_final_message"))
    body: dict[str, Any] = {
        "messages": [dict(m) for m in messages],
        "continue_final_message": begun,
        "add_generation_prompt": bool(params.get("add_generation_prompt", not begun)),
    }
    body |= {field: params[field] for field in _SAME if params.get(field) is not None}
    # What chat hands to the template by itself.
    kwargs = {k: params[k] for k in ("documents", "reasoning_effort") if params.get(k) is not None}
    if "reasoning_effort" in kwargs:
        kwargs["enable_thinking"] = kwargs["reasoning_effort"] != "none"
    theirs = params.get("chat_template_kwargs") or {}
    if not isinstance(theirs, Mapping):
        raise RequestError("chat_template_kwargs: must be an object", param="chat_template_kwargs")
    kwargs |= theirs
    return body | ({"chat_template_kwargs": kwargs} if kwargs else {})
