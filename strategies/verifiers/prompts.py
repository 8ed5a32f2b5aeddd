"""What verifiers that ask a model have in common."""

from __future__ import annotations

from heedful.prompts import UnknownPrompt
from heedful.strategies.errors import RequestError
from heedful.strategies.run import Resources
from heedful.strategies.types import Context, Message


def require(resources: Resources, owner: str, prompt: str) -> None:
    """Raises a RequestError where a prompt that an option of `owner` names is not there."""
    try:
        resources.prompts.get(prompt)
    except UnknownPrompt as error:
        raise RequestError(str(error), param=f"alignment.{owner}.prompt", code="prompt_not_found") from error


def after(context: Context, answer: str, question: str) -> list[Message]:
    """A question about an answer, as the conversation's next turn: the engine has read all before it already."""
    return [
        *context.messages,
        {"role": "assistant", "content": answer},
        {"role": "user", "content": question},
    ]
