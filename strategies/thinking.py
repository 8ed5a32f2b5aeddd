"""Models that think before they speak: their thoughts told apart from what they say, and given room.

Servers with a reasoning parser put thoughts into a field of their own; others leave them in the text, between tags at
its beginning. Some models never show them at all: a short answer is then cut off before its first word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heedful.strategies.answer import Choice, ask
from heedful.strategies.budget import counts
from heedful.strategies.engine import Engine
from heedful.strategies.types import Message, text_of

ROOM = 4096
"""Tokens for thoughts beside those of a short answer."""
_MESSAGE_OVERHEAD = 8
_OPENED = re.compile(r"\s*(?:<(think|thinking|thought|reasoning)>|\[THINK\])", re.IGNORECASE)
_OPENINGS = ("<think>", "<thinking>", "<thought>", "<reasoning>", "[think]")
_CLOSED = re.compile(r"</(?:think|thinking|thought|reasoning)>|\[/THINK\]", re.IGNORECASE)
_FIELDS = ("reasoning_content", "reasoning")


def parted(text: str) -> tuple[str, str]:
    """The thoughts at the beginning of a text, and what it says after them; "" where it never came to that."""
    opened = _OPENED.match(text)
    if opened is None:
        return "", text
    closed = _CLOSED.search(text, opened.end())
    if closed is None:
        return text[opened.end() :].strip(), ""
    return text[opened.end() : closed.start()].strip(), text[closed.end() :].lstrip()


def opens(text: str) -> bool:
    """Whether a first token is the beginning of thoughts."""
    return text.strip().lower().startswith(("<think", "<thought", "<reasoning", "[think", "<|channel"))


def left_open(text: str) -> bool:
    """Whether a prompt ends within thoughts, as some templates make it."""
    return any(text.rstrip().lower().endswith(opening) for opening in _OPENINGS)


def thoughts_of(choice: Choice) -> str:
    """What a choice has thought, wherever it stands."""
    fields = [choice.message[name] for name in _FIELDS if isinstance(choice.message.get(name), str)]
    return (fields[0] if fields else "").strip() or parted(choice.text)[0]


def spoken(choice: Choice) -> Choice:
    """The choice without the thoughts in its text; they are not judged, so they don't go out as its answer."""
    thoughts, answer = parted(choice.text)
    if not thoughts and answer == choice.text:
        return choice
    return Choice(
        choice.index,
        {**choice.message, "content": answer},
        choice.finish_reason,
        None,  # they belong to all of the text
        choice.extra,
    )


@dataclass(frozen=True, slots=True)
class Said:
    """A short answer. `cut`: whether the limit ended it."""

    text: str
    thoughts: str
    cut: bool

    def told(self, most: int = 80) -> str:
        """What it did, for messages about it."""
        if self.text:
            return f"said {self.text[:most]!r}" + (" and was cut off" if self.cut else "")
        if self.cut:
            return "said nothing: it was cut off while it was still thinking"
        return "said nothing"


async def say(
    engine: Engine, messages: Sequence[Message], params: Mapping[str, Any], most: int, *, roomy: bool = False
) -> Said:
    """An answer of at most `most` tokens, beside thoughts.

    A model that is cut off before its first word is asked again with room to think, and gets it at once from then on;
    any model gets it with `roomy`.
    """
    if not engine.habits.thinks and not roomy:
        said = await _say(engine, messages, {**params, "max_tokens": most})
        if said.text or not said.cut:
            return said
        engine.habits.thinks = True
    room = ROOM
    if engine.context_length is not None:
        texts = [text_of(m) for m in messages]
        used = sum(await counts(engine, texts)) + _MESSAGE_OVERHEAD * len(texts)
        room = max(0, min(room, engine.context_length - used - most))
    return await _say(engine, messages, {**params, "max_tokens": most + room})


async def _say(engine: Engine, messages: Sequence[Message], params: Mapping[str, Any]) -> Said:
    answer = await ask(engine, list(messages), params)
    choice = answer.choices[0] if answer.choices else Choice(0)
    text = parted(choice.text)[1]
    if _OPENED.match(choice.text) is None and (closed := _CLOSED.search(text)):
        # Some templates open the thoughts in the prompt.
        thoughts, text = text[: closed.start()].strip(), text[closed.end() :]
        engine.habits.thinks = True
    else:
        thoughts = thoughts_of(choice)
    return Said(text.strip(), thoughts, choice.finish_reason == "length")


class Thoughts:
    """Takes the thoughts at the beginning out of a text that comes in pieces."""

    def __init__(self) -> None:
        self._text: str | None = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """What of the text so far is no thought, and has not been returned before."""
        if self._text is None:
            return piece
        self._text += piece
        begun = self._text.lstrip().lower()
        if any(opening.startswith(begun) for opening in _OPENINGS):
            return ""
        if _OPENED.match(self._text) is None:
            return self._done(self._text)
        self.found = True
        closed = _CLOSED.search(self._text)
        return "" if closed is None else self._done(self._text[closed.end() :].lstrip())

    def rest(self) -> str:
        """What is left at the end of the text."""
        left, self._text = self._text or "", None
        return "" if self.found else left

    def _done(self, text: str) -> str:
        if self.found and not text:
            self._text = "<think></think>"  # white space after the thoughts may still come
            return ""
        self._text = None
        return text
