"""Values that no model may see, found by pattern and replaced by placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import msgspec

from heedful.strategies.context.personal_data import BUILTIN, Spans, spans_of
from heedful.strategies.errors import RequestError
from heedful.strategies.restore import PLACEHOLDER
from heedful.strategies.types import ChatRequest, Context, Message
from heedful.strategies.verifiers.policy import compiled

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
# Of a message: what names something, or holds no text.
_LEFT = frozenset("role type id tool_call_id name url data file_data image_url input_audio".split())
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Redactor:
    """Named patterns, in the order in which they are looked for."""

    patterns: tuple[tuple[str, Spans], ...]

    @classmethod
    def of(cls, specs: Sequence[str | Mapping[str, str]], *, param: str) -> Redactor:
        """Raises RequestError for an unknown name, and for a pattern that RE2 does not have."""
        patterns = []
        for i, spec in enumerate(specs):
            if isinstance(spec, str):
                if spec not in BUILTIN:
                    known = ", ".join(BUILTIN)
                    raise RequestError(
                        f"gate: redact: unknown name {spec!r}; give one of {known}, or a name with a pattern",
                        param=f"{param}.{i}",
                        code="invalid_option",
                    )
                patterns.append((spec, BUILTIN[spec]))
            for name, pattern in spec.items() if isinstance(spec, Mapping) else ():
                if _NAME.fullmatch(name) is None:
                    raise RequestError(
                        f"gate: redact: a name has letters, digits and _, 32 at most, and is {name!r}",
                        param=f"{param}.{i}",
                        code="invalid_option",
                    )
                found = compiled(pattern, case_sensitive=True, what="gate: redact", param=f"{param}.{i}")
                patterns.append((name, spans_of(found)))
        return cls(tuple(patterns))

    def redact(self, context: Context) -> tuple[Context, dict[str, str]]:
        """The context without the values, the client's own messages too, and the placeholders with their values."""
        original = context.original
        work = _Redaction(self.patterns, context)
        messages = work.messages(context.messages)
        theirs = messages if original.messages is context.messages else work.messages(original.messages)
        prompt = None if context.prompt is None else work.text(context.prompt)
        if not work.found:
            return context, {}
        request = ChatRequest(original.model, theirs, original.params, original.stream)
        return replace(context, original=request, messages=messages, prompt=prompt), work.found


class _Redaction:
    """One request's values and their placeholders: the same value has the same one everywhere."""

    def __init__(self, patterns: tuple[tuple[str, Spans], ...], context: Context) -> None:
        self._patterns = patterns
        self._known = context.restore
        # What looks like a placeholder already, the client's or another gate's, must not be mixed up with ours.
        self._taken = set(context.restore)
        for messages in (context.messages, context.original.messages):
            for message in messages:
                for text in (*_texts(message), str(message.get("name", ""))):
                    self._taken.update(PLACEHOLDER.findall(text))
        self._taken.update(PLACEHOLDER.findall(context.prompt or ""))
        self._taken.update(PLACEHOLDER.findall(msgspec.json.encode(context.params).decode()))
        self._placeholders: dict[tuple[str, str], str] = {}
        self._numbers: dict[str, int] = {}
        self.found: dict[str, str] = {}

    def messages(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return tuple(self._named(self._within(message)) for message in messages)

    def _named(self, message: Message) -> Message:
        """Whoever speaks may be called by an address; a function keeps its name."""
        name = message.get("name")
        if not isinstance(name, str) or message.get("role") in ("tool", "function"):
            return message
        return message if (clean := self.text(name)) is name else {**message, "name": clean}

    def _within(self, value: Any, key: str = "") -> Any:
        """A message or a part of one; the same object where nothing in it is redacted."""
        if isinstance(value, str):
            return self._arguments(value) if key == "arguments" else self.text(value)
        if isinstance(value, Mapping):
            new = {k: v if k in _LEFT else self._within(v, k) for k, v in value.items()}
            return new if any(new[k] is not v for k, v in value.items()) else value
        if isinstance(value, list | tuple):
            items = self._joined([self._within(item, key) for item in value])
            same = len(items) == len(value) and all(a is b for a, b in zip(items, value, strict=True))
            return value if same else items
        return value

    def _joined(self, clean: list[Any]) -> list[Any]:
        """Texts that follow one another are read as one: where a value goes on in the next, they become one part."""
        joined: list[Any] = []
        for texts, run in groupby(clean, key=_is_text):
            parts = list(run)
            if texts and len(parts) > 1:
                apart = "".join(part["text"] for part in parts)
                if (whole := self.text(apart)) != apart:
                    parts = [{**parts[0], "text": whole}]
            joined += parts
        return joined

    def _arguments(self, text: str) -> str:
        """JSON is looked through as what it says, not as how it escapes it."""
        if (value := _decoded(text)) is None:
            return self.text(text)
        clean = self._everywhere(value)
        return text if clean is value else msgspec.json.encode(clean).decode()

    def _everywhere(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            clean = self.text(written := msgspec.json.encode(value).decode())
            return value if clean == written else clean
        if isinstance(value, dict):
            new = {self.text(k): self._everywhere(v) for k, v in value.items()}
            same = new.keys() == value.keys() and all(new[k] is v for k, v in value.items())
            return value if same else new
        if isinstance(value, list):
            items = [self._everywhere(item) for item in value]
            return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
        return value

    def text(self, text: str) -> str:
        pieces, at = [], 0
        for match in PLACEHOLDER.finditer(text) if self._known or self.found else ():
            if match[0] in self._known or match[0] in self.found:  # no text to look into
                pieces += [self._piece(text[at : match.start()], 0), match[0]]
                at = match.end()
        if not pieces:
            return self._piece(text, 0)
        return "".join((*pieces, self._piece(text[at:], 0)))

    def _piece(self, text: str, first: int) -> str:
        """A text that holds no placeholder of ours, looked through by the patterns from the first one on."""
        if not text:
            return text
        for i, (name, spans) in enumerate(self._patterns[first:], first):
            pieces, at = [], 0
            for start, end in spans(text):
                pieces += [self._piece(text[at:start], i + 1), self._placeholder(name, text[start:end])]
                at = end
            if pieces:
                return "".join((*pieces, self._piece(text[at:], i + 1)))
        return text

    def _placeholder(self, name: str, value: str) -> str:
        if (known := self._placeholders.get((name, value))) is not None:
            return known
        number = self._numbers.get(name, 0) + 1
        while (placeholder := f"[{name.upper()}_{number}]") in self._taken:
            number += 1
        self._numbers[name] = number
        self._taken.add(placeholder)
        self._placeholders[name, value] = placeholder
        self.found[placeholder] = value
        return placeholder


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type") in _TEXT_PARTS


def _texts(value: Any, key: str = "") -> Iterator[str]:
    """Every text in a message, arguments also as what they say."""
    if isinstance(value, str):
        yield value
        if key == "arguments" and (told := _decoded(value)) is not None:
            yield msgspec.json.encode(told).decode()
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _LEFT:
                yield from _texts(each, name)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, key)


def _decoded(text: str) -> Any:
    """None for what is no JSON, and for null."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
