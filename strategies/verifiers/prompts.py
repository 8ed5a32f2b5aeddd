"""What verifiers that ask a model have in common."""

from __future__ import annotations

from heedful.strategies.types import Context, Message


def after(context: Context, answer: str, question: str) -> list[Message]:
    """A question about an answer, as the conversation's next turn: the engine has read all before it already."""
    return [
        *context.messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": question},
    ]
