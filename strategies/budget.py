"""Tokens, counted with the served model's own tokenizer: how long a text is, and how much room a request has left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from heedful.strategies.arriving import estimate
from heedful.strategies.engine import Capability, Engine
from heedful.strategies.tasks import SOME, together
from heedful.strategies.types import Context, prompt_fields, text_of

_MESSAGE_OVERHEAD = 8


def counts_exactly(engine: Engine) -> bool:
    return Capability.TOKENS in engine.capabilities


async def count(engine: Engine, text: str) -> int:
    """Tokens of a text; an estimate (a third of its bytes) where the engine has no tokenizer."""
    if counts_exactly(engine):
        return len(await engine.tokenize(text))
    return estimate(text)


async def counts(engine: Engine, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, counted together."""
    return await together((count(engine, text) for text in texts), SOME)


async def room(context: Context, engine: Engine, *, answer: int, prompt: str | None = None) -> int | None:
    """Tokens that may still be added to a conversation (or to a raw `prompt`); None: the engine has no known limit.

    Keeps free what the client wants for the answer, or `answer` where it did not say. The engine tokenises the prompt
    again, since what is added to it makes it another: a few milliseconds, for a prompt that takes far longer to read.
    """
    if engine.context_length is None:
        return None
    wanted = context.params.get("max_completion_tokens") or context.params.get("max_tokens")
    answer = wanted if isinstance(wanted, int) else answer
    rendered = prompt is None and Capability.CHAT | Capability.TOKENS in engine.capabilities
    if prompt is not None:
        used = 1 + await count(engine, prompt)  # and the token that begins it
    elif rendered:
        used = len(await engine.render(context.messages, shape=prompt_fields(context.params)))
    else:
        texts = [text_of(message) for message in context.messages]
        used = _MESSAGE_OVERHEAD * len(texts) + sum(await counts(engine, texts))
    tools: Any = context.params.get("tools")
    if tools and not rendered:
        used += await count(engine, msgspec.json.encode(tools).decode())
    return max(0, engine.context_length - used - answer)
