"""Calls that a strategy broke off on purpose: their tokens were spent, so they are counted too."""

from __future__ import annotations

from collections.abc import Iterable

from heedful.strategies.budget import count
from heedful.strategies.engine import Capability
from heedful.strategies.run import Run
from heedful.strategies.types import Call, Usage, prompt_fields, text_of

_CHAT = Capability.CHAT | Capability.TOKENS


async def book(run: Run, call: Call, texts: Iterable[str]) -> Usage:
    """Adds a call that was closed before its Finish to the ledger: its prompt, and what had arrived of its answers.

    Counted with the engine's tokenizer where it has one, else estimated.
    """
    if call.prompt is not None:
        prompt = await count(run.engine, call.prompt)
    elif _CHAT in run.engine.capabilities:
        open_end = bool(call.params.get("continue_final_message"))
        prompt = len(
            await run.engine.render(call.messages, continue_final=open_end, shape=prompt_fields(call.params))
        )
    else:
        prompt = sum([await count(run.engine, text_of(m)) for m in call.messages])
    answers = sum([await count(run.engine, text) for text in texts])
    run.ledger.recount(run.stage_name, call, usage := Usage(prompt, answers))
    return usage
