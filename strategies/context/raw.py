"""Raw prompts for base models: a conversation as a transcript that the model continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from heedful.strategies.engine import Capability, Engine
from heedful.strategies.errors import MissingCapability, RequestError
from heedful.strategies.types import Context, Message, text_of

TURNS = ({"role": "user", "text": "?"}, {"role": "assistant", "text": "!"})
"""What `transcript` makes of a conversation, for example."""
PromptForm = Literal["auto", "raw", "chat"]
FORM_NEEDS = {"auto": Capability.NONE, "raw": Capability.COMPLETION, "chat": Capability.CHAT}


def chosen_form(form: PromptForm, engine: Engine, strategy: str) -> Literal["raw", "chat"]:
    """Form "auto" is raw exactly where the model has no chat template.

    Raises MissingCapability where the engine can do neither.
    """
    if form != "auto":
        return form
    if Capability.CHAT in engine.capabilities:
        return "chat"
    if Capability.COMPLETION not in engine.capabilities:
        raise MissingCapability(
            f"strategy {strategy!r} needs chat or completion from model {engine.model!r}", param="alignment"
        )
    return "raw"


def raw_context(
    context: Context, text: str, stops: Sequence[str], max_tokens: int, defaults: Mapping[str, Any]
) -> Context:
    """The context that continues `text`. `max_tokens` and `defaults` count where the client left them open."""
    params = dict(context.params)
    own = params.get("stop") or []
    params["stop"] = [*([own] if isinstance(own, str) else own), *stops]
    if params.get("max_tokens") is None and params.get("max_completion_tokens") is None:
        params["max_tokens"] = max_tokens
    return replace(context, params={**defaults, **params}, prompt=text)


def transcript(messages: tuple[Message, ...]) -> tuple[str, list[dict[str, str]]]:
    """A conversation as plain text for a raw prompt: the system text, and the turns as role and text.

    Raises RequestError for what a transcript can't hold: images, audio, tool calls.
    """
    system: list[str] = []
    turns: list[dict[str, str]] = []
    for i, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        parts = content if isinstance(content, list) else []
        if message.get("tool_calls") or role not in ("system", "developer", "user", "assistant"):
            raise RequestError(f"messages.{i}: a raw prompt can't hold tool calls", param=f"messages.{i}")
        if any(p["type"] != "text" for p in parts):
            raise RequestError(
                f"messages.{i}.content: a raw prompt holds text only", param=f"messages.{i}.content"
            )
        if role in ("system", "developer"):
            system.append(text_of(message))
        else:
            turns.append({"role": str(role), "text": text_of(message)})
    if not turns or turns[-1]["role"] != "user":
        raise RequestError("messages: the last message must be the user's", param="messages")
    return "\n\n".join(system), turns
