"""Tool calls that a request forces: a grammar that leaves the model nothing else to write, and the calls it wrote.

vLLM's own way ties a forced call to its parser: with most of them a tool without `strict: true` gets free arguments
(a bare string, say), some parsers enforce nothing, and what the token limit cuts comes back as raw text. So forced
calls are ours whole: every argument follows its schema from the first token, with any parser and with none.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from heedful.strategies import Chunk, EngineError, Event, RequestError

MOST = 8  # calls in one forced answer: a weak model that may go on would go on to its last token
_SPACES = 32  # in a row inside arguments, for the same reason


@dataclass(frozen=True, slots=True)
class CallForm:
    """What a model family writes around a call and between two, and what it calls the arguments."""

    begin: str = ""
    end: str = ""
    between: str = "\n"
    arguments: str = "arguments"


# Nothing between two: a model that wants no second call ends here, and would not after a line break.
_HERMES = CallForm("<tool_call>\n", "\n</tool_call>", between="")
_LLAMA = CallForm(between="; ", arguments="parameters")
FORMS = {
    "hermes": _HERMES,
    "qwen3_json": _HERMES,
    "longcat": CallForm("<longcat_tool_call>\n", "\n</longcat_tool_call>", between=""),
    "llama3_json": _LLAMA,
    "llama4_json": _LLAMA,
}
"""By vLLM's parser. Families that write XML or Python are given plain JSON, which none of their parsers reads."""


@dataclass(frozen=True, slots=True)
class Forced:
    """The tools of which one must be called. `single`: once; `finish_reason`: OpenAI's, of a whole answer."""

    tools: Mapping[str, dict[str, Any]]
    """The arguments' schemas by the tools' names."""
    single: bool
    finish_reason: str

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Forced | None:
        """What a valid chat request forces, None where it forces no call. Raises RequestError for a bad schema."""
        choice, tools = body.get("tool_choice"), body.get("tools") or []
        if choice != "required" and not isinstance(choice, dict):
            return None
        schemas = {t["function"]["name"]: _arguments(t["function"], i) for i, t in enumerate(tools)}
        if isinstance(choice, dict):
            name = choice["function"]["name"]
            return cls({name: schemas[name]}, single=True, finish_reason="stop")
        return cls(schemas, single=body.get("parallel_tool_calls") is False, finish_reason="tool_calls")

    def structural_tag(self, form: CallForm) -> str:
        """xgrammar's structural tag, as JSON: calls as this family writes them, and nothing else."""
        calls = [
            {
                "type": "tag",
                "begin": f'{form.begin}{{"name": {_json(name)}, "{form.arguments}": ',
                "content": {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _SPACES},
                "end": f"}}{form.end}",
            }
            for name, schema in self.tools.items()
        ]
        one: dict[str, Any] = {"type": "or", "elements": calls}
        if not self.single:
            another: dict[str, Any] = one
            if form.between:
                between = {"type": "const_string", "value": form.between}
                another = {"type": "sequence", "elements": [between, one]}
            more = {"type": "repeat", "min": 0, "max": MOST - 1, "content": another}
            one = {"type": "sequence", "elements": [one, more]}
        return _json({"type": "structural_tag", "format": one})

    def json_schema(self) -> dict[str, Any]:
        """The same as one JSON schema, for grammars other than xgrammar's."""
        definitions = {f"tool{i}": _moved(s, f"tool{i}") for i, s in enumerate(self.tools.values())}
        calls = [
            {
                "type": "object",
                "properties": {"name": {"enum": [name]}, "arguments": {"$ref": f"#/$defs/tool{i}"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for i, name in enumerate(self.tools)
        ]
        one = {"anyOf": calls}
        many = {"type": "array", "minItems": 1, "maxItems": MOST, "items": one}
        return {**(one if self.single else many), "$defs": definitions}

    async def read(self, events: AsyncGenerator[Event, None], *, stream: bool) -> AsyncGenerator[Event, None]:
        """The events with the calls in place of their text."""
        readers: dict[int, Reader] = {}
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, Chunk):
                    yield event
                    continue
                choices = [
                    read
                    for c in event.choices
                    if (read := self._choice(c, readers.setdefault(c.get("index", 0), Reader()), stream))
                ]
                if choices:
                    yield _with(event, choices)

    def _choice(self, choice: Mapping[str, Any], reader: Reader, stream: bool) -> dict[str, Any] | None:
        """The choice with its text read; None where nothing is left of it."""
        delta = dict(choice.get("delta") or {})
        text = delta.get("content") or ""
        calls = reader.feed(text)
        if text or not stream:
            delta["content"] = None
        if not stream:
            calls = joined(calls)
        if calls:
            delta["tool_calls"] = calls
        reason = choice.get("finish_reason")
        if reason in ("stop", "tool_calls"):
            if not reader.whole:
                raise EngineError("the engine ended a forced tool call before it was whole")
            reason = self.finish_reason
        read = {**choice, "delta": delta, "finish_reason": reason}
        told = any(v not in (None, []) for k, v in read.items() if k not in ("index", "delta"))
        return read if told or not text or any(v is not None for v in delta.values()) else None


class Reader:
    """Reads one choice's text, piece by piece, into the deltas of OpenAI's tool calls.

    A call begins with its name; its arguments follow as they are written. What stands around calls is left out.
    """

    _HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)')

    def __init__(self) -> None:
        self._text = ""
        self._depth = 0
        self._quoted = self._escaped = self._inside = False
        self._count = 0

    @property
    def whole(self) -> bool:
        """Whether there are calls, all with their arguments to the end."""
        return self._count > 0 and not self._inside

    def feed(self, text: str) -> list[dict[str, Any]]:
        self._text += text
        deltas: list[dict[str, Any]] = []
        while True:
            if not self._inside:
                if (head := self._HEAD.search(self._text)) is None:
                    return deltas
                self._text = self._text[head.end() :]
                self._inside, self._count = True, self._count + 1
                function = {"name": msgspec.json.decode(head[1]), "arguments": ""}
                deltas.append(self._delta(function, id=f"chatcmpl-tool-{uuid4().hex[:16]}", type="function"))
            end = self._end()
            piece, self._text = self._text[:end], self._text[end:]
            if piece:
                deltas.append(self._delta({"arguments": piece}))
            if self._inside:
                return deltas

    def _delta(self, function: dict[str, Any], **more: str) -> dict[str, Any]:
        return {"index": self._count - 1, **more, "function": function}

    def _end(self) -> int:
        """How far the text belongs to the arguments: to where their outermost bracket closes, or all of it."""
        for i, c in enumerate(self._text):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif c == "\\":
                    self._escaped = True
                elif c == '"':
                    self._quoted = False
            elif c == '"':
                self._quoted = True
            elif c in "{[":
                self._depth += 1
            elif c in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._inside = False
                    return i + 1
        return len(self._text)


def joined(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deltas as whole calls, which have no index."""
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        if "id" in delta:
            calls.append({"id": delta["id"], "type": delta["type"], "function": dict(delta["function"])})
        else:
            calls[delta["index"]]["function"]["arguments"] += delta["function"]["arguments"]
    return calls


def _arguments(function: Mapping[str, Any], i: int) -> dict[str, Any]:
    """A tool's schema; arguments are an object, even where it does not say so."""
    schema = function.get("parameters") or {}
    if schema.get("type", "object") != "object":
        raise RequestError(
            f"tools.{i}.function.parameters: a tool's arguments are an object, not {schema['type']!r}",
            param=f"tools.{i}.function.parameters",
        )
    if not {"type", "$ref", "anyOf", "oneOf", "allOf"} & set(schema):
        schema = {"type": "object", **schema}
    return dict(schema)


def _moved(schema: Any, name: str) -> Any:
    """A schema that has become a definition: what it refers to has moved with it."""
    if isinstance(schema, list):
        return [_moved(s, name) for s in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        k: f"#/$defs/{name}{v[1:]}"
        if k == "$ref" and isinstance(v, str) and v[:1] == "#"
        else _moved(v, name)
        for k, v in schema.items()
    }


def _with(chunk: Chunk, choices: list[dict[str, Any]]) -> Chunk:
    """The chunk with other choices, all else as the engine wrote it."""
    if chunk.raw is None:
        return Chunk(choices)
    return Chunk.from_json(msgspec.json.encode({**msgspec.json.decode(chunk.raw), "choices": choices}))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
