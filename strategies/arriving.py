"""What an answer has cost that is cut off before anybody tells: estimated from what had come of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from heedful.strategies.types import Call, Chunk, Message, Usage, text_of

PROMPT_BYTES = 3
"""Of a token, where nobody counts: more tokens than English text has, so that an estimate errs on the safe side."""
_ANSWER_BYTES = 4  # as English has it: a piece is a token mostly, and this is for those who send many in one


def estimate(text: str) -> int:
    """Tokens of a prompt's text."""
    return -(-len(text.encode()) // PROMPT_BYTES)


def estimate_given(prompt: Any) -> int:
    """Tokens of a raw prompt, or of several: texts or ids."""
    if isinstance(prompt, str):
        return estimate(prompt)
    if isinstance(prompt, int):
        return 1
    return sum(map(estimate_given, prompt)) if isinstance(prompt, list) else 0


def estimate_answer(choice: Mapping[str, Any]) -> int:
    """Tokens of a whole choice."""
    return -(-_size(choice) // _ANSWER_BYTES)


def estimate_prompt(
    messages: Iterable[Message] = (), params: Mapping[str, Any] | None = None, prompt: str | None = None
) -> int:
    """Tokens of a conversation with its tools, or of a raw prompt."""
    if prompt is not None:
        return estimate(prompt)
    tools = (params or {}).get("tools")
    told = estimate(msgspec.json.encode(tools).decode()) if tools else 0
    return told + sum(estimate(text_of(m)) for m in messages if isinstance(m, Mapping))


class Arriving:
    """Counts an answer's pieces and their size as they come by, which has to cost next to nothing."""

    __slots__ = ("_frame", "_size", "pieces")

    def __init__(self) -> None:
        self.pieces = 0
        """Those that say something; of JSON as it came, all."""
        self._size = self._frame = 0

    def take(self, chunk: Chunk) -> None:
        if chunk.raw is not None:
            self.take_json(len(chunk.raw), 1)
            return
        for choice in chunk.choices:
            if size := _size(choice):
                self.pieces += 1
                self._size += size

    def take_json(self, size: int, pieces: int) -> None:
        """So many events of so many bytes together. The first says only who speaks: what it has, all have."""
        if not self._frame:
            self._frame = size // pieces
        self.pieces += pieces
        self._size += size - pieces * self._frame

    @property
    def tokens(self) -> int:
        """Of the answer so far."""
        pieces = self.pieces - 1 if self._frame else self.pieces
        return max(pieces, self._size // _ANSWER_BYTES)

    def cost(self, call: Call) -> Usage:
        """Of a call that is cut off here."""
        return Usage(estimate_prompt(call.messages, call.params, call.prompt), self.tokens)


def _size(choice: Any) -> int:
    """Characters that a choice adds, its thoughts and its tools' arguments too; 0 of what has another form."""
    choice = _fields(choice)
    delta = _fields(choice.get("delta")) or _fields(choice.get("message"))
    said = [choice.get("text"), *(v for k, v in delta.items() if k != "role")]
    calls = delta.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = _fields(_fields(call).get("function"))
        said += [function.get("name"), function.get("arguments")]
    return sum(len(text) for text in said if isinstance(text, str))


def _fields(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
