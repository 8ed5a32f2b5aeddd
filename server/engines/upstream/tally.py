"""What an answer costs that goes by as bytes: read from what the upstream tells of it, else estimated."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from heedful.server.engines.upstream.counts import usage_of
from heedful.server.engines.upstream.dialect import Dialect
from heedful.server.observe.facts import Facts
from heedful.strategies import HeedfulError, Usage
from heedful.strategies.arriving import Arriving, estimate_answer, estimate_given, estimate_prompt

# In a text quotes are escaped. One that is null, as every event has it where one was asked for, tells nothing.
_TOLD = re.compile(rb'"usage"\s*:\s*\{')
_EVENT = re.compile(rb"(.*?(?:\r\n\r\n|\n\n|\r\r|$))", re.DOTALL)
_OPTIONS = "stream_options"
_STREAMED = frozenset({"/chat/completions", "/completions"})
_END = 4096  # bytes at the beginning and at the end of a large answer, in which its usage stands


class UsageTally:
    """Of one request whose answer is passed on. Fills in its facts, at the latest with `end`."""

    def __init__(self, facts: Facts, fields: Mapping[str, Any], path: str) -> None:
        self._facts, self._fields = facts, fields
        self._arriving = Arriving()
        self._ends = b""
        streams = fields.get("stream") is True and path in _STREAMED
        options = fields.get(_OPTIONS) if streams else None
        asks = isinstance(options, dict) and bool(options.get("include_usage"))
        recorded = facts.client is not None and facts.client.tenant.settings.records is not None
        wanted = facts.charged or recorded
        self.adds = wanted and streams and not asks and (options is None or isinstance(options, dict))
        """Whether the upstream is asked for what the client did not ask for, and is not to see."""

    # -- what is asked

    def asking(self, payload: bytes, dialect: Dialect) -> bytes:
        """A body that asks for the stream's usage, too."""
        if self.adds and _OPTIONS in dialect.refused:
            self.adds = False
        if not self.adds:
            return payload
        if _OPTIONS in self._fields:
            body = msgspec.json.decode(payload)
            body[_OPTIONS] = {**(body[_OPTIONS] or {}), "include_usage": True}
            return msgspec.json.encode(body)
        return payload.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'

    def refused(self, error: HeedfulError, dialect: Dialect) -> bool:
        """Whether the upstream does not know the question, so that it is to be asked without."""
        if not self.adds or not dialect.learn(error, {_OPTIONS: None}, {}):
            return False
        self.adds = False
        return True

    # -- what is answered

    def whole(self, answer: Mapping[str, msgspec.Raw]) -> None:
        """A whole answer, its fields not yet read."""
        told = usage_of(msgspec.json.decode(answer["usage"])) if "usage" in answer else None
        if told is None and ("choices" in answer or "data" in answer):
            choices = msgspec.json.decode(answer["choices"]) if "choices" in answer else None
            said = [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []
            self._estimated(sum(map(estimate_answer, said)))
        elif told is not None:
            self._facts.usage = told

    def part(self, piece: bytes) -> None:
        """A piece of an answer that is too large to be read."""
        if len(self._ends) < _END:
            self._ends += piece[:_END]
        self._ends = self._ends[:_END] + (self._ends[_END:] + piece[-_END:])[-_END:]

    def events(self, text: bytes) -> bytes:
        """Whole events of a stream; returns those that the client is to have."""
        self._arriving.take_json(len(text), max(1, text.count(b"\n\n") or text.count(b"\r\n\r\n")))
        if b'"usage"' not in text or _TOLD.search(text) is None:  # most pieces: the first look takes a tenth
            return text
        return b"".join(event for event in _EVENT.findall(text) if event and not self._reads(event))

    def _reads(self, event: bytes) -> bool:
        """Whether an event is nothing but the usage that the client did not ask for."""
        if _TOLD.search(event) is None:
            return False
        data = b"".join(
            line[5:] for line in event.replace(b"\r", b"\n").split(b"\n") if line.startswith(b"data:")
        )
        try:
            told = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        if not isinstance(told, dict) or (usage := usage_of(told.get("usage"))) is None:
            return False
        self._facts.usage = usage
        return self.adds and not told.get("choices")

    def end(self, *, whole: bool) -> None:
        """Nothing more comes. `whole`: not cut off."""
        self.told()
        if self._facts.usage is None:
            # The event that ends the choice and the one that ends the stream say nothing.
            self._estimated(max(0, self._arriving.tokens - 2 * whole))

    def told(self) -> None:
        """Reads what the two ends of a large answer tell."""
        if self._facts.usage is not None:
            return
        for found in reversed(list(_TOLD.finditer(self._ends))):
            try:
                told = _first(self._ends[found.end() - 1 :])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            if (usage := usage_of(told)) is not None:
                self._facts.usage = usage
                return

    def _estimated(self, answer: int) -> None:
        fields = self._fields
        messages = fields.get("messages")
        prompt = estimate_prompt(messages, fields) if isinstance(messages, list | tuple) else 0
        for field in ("prompt", "input"):
            prompt += estimate_given(fields.get(field))
        self._facts.usage, self._facts.usage_estimated = Usage(prompt, answer), True


def _first(text: bytes) -> Any:
    """The object that a text begins with. Raises DecodeError."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign == 0x7B) - (sign == 0x7D)
        if not depth:
            return msgspec.json.decode(text[: at + 1])
    raise msgspec.DecodeError("it has no end")
