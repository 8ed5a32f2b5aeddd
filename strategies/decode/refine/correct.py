"""How a correction is asked for: the conversation, the answer at fault, and the verifiers' words as the next turn."""

from __future__ import annotations

from typing import Any

from heedful.prompts import Prompt
from heedful.strategies.errors import RequestError
from heedful.strategies.types import Context, Message

# What the first draft had and a text written in its place must not have again.
_ONCE = frozenset("n stream_options echo prediction request_id".split())
_TOOLS = frozenset("tools tool_choice parallel_tool_calls functions function_call".split())


def check_turns(context: Context, step: str) -> None:
    """Raises RequestError where no further turn can be asked for: after a raw prompt, or an unfinished message."""
    if context.prompt is not None:
        raise RequestError(
            f"{step}: a strategy before it has written a raw prompt, and a correction is a turn of a conversation",
            param="alignment",
        )
    if context.params.get("continue_final_message"):
        raise RequestError(
            f"continue_final_message: an answer that {step} may write anew can't continue a message",
            param="continue_final_message",
        )


def text_params(
    context: Context, *, shift: int, temperature: float | None = None, tools: bool = False
) -> dict[str, Any]:
    """The client's parameters for one more text in the answer's place; `shift` makes a seed another one.

    `tools`: whether it may call tools, as what it takes the place of did.
    """
    left_out = _ONCE if tools else _ONCE | _TOOLS
    params = {k: v for k, v in context.params.items() if k not in left_out}
    if isinstance(params.get("seed"), int):
        params["seed"] += shift
    if temperature is not None:
        params["temperature"] = temperature
    return params


def correction(
    context: Context, prompt: Prompt, answer: str, critique: str, *, part: str, released: str = ""
) -> list[Message]:
    """The conversation that ends by asking for a better answer than `answer`. `part` is the prompt's block.

    `released`: how much of it stands.
    """
    asked = prompt.render(part, critique=critique, released=released)
    return [
        *context.messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": asked},
    ]
