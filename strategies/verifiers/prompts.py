"""What verifiers that ask a model have in common."""

from __future__ import annotations

from heedful.strategies.types import Context, Message


def conversation(context: Context, answer: str) -> list[Message]:
    """The client's conversation, up to what is judged: its last turn, or an answer to that."""
    turns = list(context.original.messages)
    return turns if context.judged == "question" else [*turns, {"role": "assistant", "content": answer}]


def instead(context: Context, question: str) -> list[Message]:
    """A question about what the last turn asks, in that turn's place."""
    return [*context.original.messages[:-1], {"role": "user", "content": question}]


def after(context: Context, answer: str, question: str) -> list[Message]:
    """A question about an answer, as the conversation's next turn: the engine has read all before it already."""
    return [
        *context.messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": question},
    ]
