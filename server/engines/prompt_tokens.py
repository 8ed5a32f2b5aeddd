"""A chat call as vLLM's /tokenize takes it: the same template with the same tools, and no limit on the length."""

from __future__ import annotations

from typing import Any

from heedful.strategies import Call

_SAME = ("tools", "chat_template", "add_special_tokens", "mm_processor_kwargs", "media_io_kwargs")


def tokenize_body(call: Call) -> dict[str, Any]:
    """The request's body without its model."""
    given = call.params
    begun = bool(given.get("continue_final_message"))
    body: dict[str, Any] = {
        "messages": [dict(m) for m in call.messages],
        "continue_final_message": begun,
        "add_generation_prompt": bool(given.get("add_generation_prompt", not begun)),
    }
    body |= {field: given[field] for field in _SAME if given.get(field) is not None}
    kwargs = given.get("chat_template_kwargs") or {}
    if (effort := given.get("reasoning_effort")) is not None:  # as vLLM's chat hands it to the template
        kwargs = {"enable_thinking": effort != "none", "reasoning_effort": effort, **kwargs}
    return body | ({"chat_template_kwargs": kwargs} if kwargs else {})
