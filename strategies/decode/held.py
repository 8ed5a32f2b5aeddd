"""One choice's pieces, held back until what they say has been judged."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from heedful.strategies.answer import Choice
from heedful.strategies.sentences import Splitter
from heedful.strategies.types import text_in

HeldPiece = dict[str, Any]
"""A choice of a chunk: delta, finish_reason, logprobs."""

TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
"""The fields of a delta that are text which a model writes."""
_LOGPROBS = "logprobs"
_CALLS = ("tool_calls", "function_call")
_ID = re.compile(r"[\w.:|\-]{1,200}")
_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


class Held:
    """What has come of one choice and how much of it has passed, field by field.

    `begun`: what the request has begun of the answer; it is judged with the rest. `stop`: the request's stop strings.
    """

    def __init__(self, begun: str, stop: Any = None) -> None:
        self._begun = begun
        self._stops = [stop] if isinstance(stop, str) else list(stop or [])
        self._texts: dict[str, str] = {}
        self._sure: dict[str, int] = {}
        self._gone: dict[str, int] = {}
        self._split: dict[str, Splitter] = {}
        self._whole: dict[str, int] = {}  # how far each is in whole sentences
        self._field = ""
        self._ends: deque[tuple[str, int]] = deque()  # of sentences that are whole and not judged
        self._pieces: deque[HeldPiece] = deque()
        self._calls = Choice(0)
        self._calls_sure = False
        self.known: deque[str] = deque(maxlen=4)
        """The last texts that have passed: two fields may hold the same."""
        self.ended = False
        """Whether its finish reason has come."""
        self.out = False
        """Whether some of it has left."""

    def add(self, choice: Mapping[str, Any]) -> None:
        """Takes a piece in, without what is not known."""
        given = choice.get("delta") or {}
        delta: HeldPiece = {}
        for field in TEXTS:
            if text := text_in(given.get(field)):
                delta[field] = text
                if (
                    field != self._field and self._field
                ):  # what follows must not wait for the end of that sentence
                    self._ends.append((self._field, len(self._texts[self._field])))
                self._field = field
                self._grow(field, text)
        calls = {field: given[field] for field in _CALLS if given.get(field)}
        if calls:
            delta |= _known_calls(calls)
            self._calls.add({"delta": delta | {field: "" for field in TEXTS if field in delta}})
            self._calls_sure = False
        piece: HeldPiece = {"delta": delta}
        if logprobs := _known_logprobs(choice.get("logprobs")):
            piece["logprobs"] = logprobs
            self._grow(_LOGPROBS, _said(logprobs))
        if reason := choice.get("finish_reason"):
            self.ended = True
            piece["finish_reason"] = reason if reason in _REASONS else "stop"
        stopped = choice.get("stop_reason")
        if isinstance(stopped, int) or stopped in self._stops:
            piece["stop_reason"] = stopped
        if delta or len(piece) > 1:
            self._pieces.append(piece)

    def _grow(self, field: str, text: str) -> None:
        if field not in self._texts:
            self._texts[field], self._split[field] = "", Splitter()
            self._sure[field] = self._gone[field] = self._whole[field] = 0
        self._texts[field] += text
        for sentence in self._split[field].feed(text):
            self._whole[field] += len(sentence)
            self._ends.append((field, self._whole[field]))

    @property
    def all(self) -> str:
        """All that the model has written here."""
        return "".join(self._texts.get(field, "") for field in TEXTS) + "".join(self._called())

    # -- what is to be judged

    def sentences(self) -> Iterator[tuple[str, int, str]]:
        """What has become whole: the field, how much of it is judged, and the text to judge, from its beginning."""
        while self._ends:
            field, end = self._ends.popleft()
            yield field, end, self._judged(field, end)

    def unjudged(self) -> Iterator[str]:
        """All texts that have not passed as a whole."""
        self._ends.clear()
        for field, text in self._texts.items():
            if self._sure[field] < len(text):
                yield self._judged(field, len(text))
                if text.lstrip()[:1] in ("{", "["):
                    yield "\n".join(_strings(text))
        if not self._calls_sure:
            yield from self._called()

    def _judged(self, field: str, end: int) -> str:
        text = self._texts[field][:end]
        return self._begun + text if field in ("content", _LOGPROBS) else text

    def _called(self) -> Iterator[str]:
        """Tool calls as texts: names and arguments, and the strings in those as they read once decoded."""
        message = self._calls.message
        for call in (*(message.get("tool_calls") or ()), {"function": message.get("function_call")}):
            for kind in ("function", "custom"):
                if what := call.get(kind):
                    arguments = what.get("arguments") or what.get("input") or ""
                    yield "\n".join((what.get("name") or "", arguments, *_strings(arguments)))

    # -- what may leave

    def passed(self, field: str, end: int) -> None:
        self._sure[field] = max(end, self._sure[field])

    def passed_all(self) -> None:
        """All that has come may leave."""
        self._sure = {field: len(text) for field, text in self._texts.items()}
        self._calls_sure = True

    def released(self) -> Iterator[HeldPiece]:
        """The pieces that have passed, as they came; of the last, the part that has."""
        while self._pieces:
            piece = self._pieces[0]
            sizes = {field: len(text) for field, text in piece["delta"].items() if field in TEXTS}
            if _LOGPROBS in piece:
                sizes[_LOGPROBS] = len(_said(piece[_LOGPROBS]))
            room = {field: self._sure[field] - self._gone[field] for field in sizes}
            whole = all(room[field] >= size for field, size in sizes.items())
            if (
                "finish_reason" in piece or any(c in piece["delta"] for c in _CALLS)
            ) and not self._calls_sure:
                whole = False
            if whole:
                for field, size in sizes.items():
                    self._gone[field] += size
                self.out = True
                yield self._pieces.popleft()
                continue
            if _LOGPROBS not in piece and (part := self._part(piece, room)):
                yield part
            return

    def _part(self, piece: HeldPiece, room: Mapping[str, int]) -> HeldPiece | None:
        """The beginning of a piece's texts, taken from it."""
        part = {field: piece["delta"][field][:n] for field, n in room.items() if n > 0}
        if not part:
            return None
        for field, text in part.items():
            self._gone[field] += len(text)
            rest = piece["delta"].pop(field)[len(text) :]
            if rest:
                piece["delta"][field] = rest
        self.out = True
        return {"delta": part}


def _known_calls(given: Mapping[str, Any]) -> HeldPiece:
    """Calls, or pieces of them, without what is not known."""
    known: HeldPiece = {}
    if calls := given.get("tool_calls"):
        known["tool_calls"] = [_known_call(call) for call in calls if isinstance(call, Mapping)]
    if isinstance(call := given.get("function_call"), Mapping):
        known["function_call"] = _strs(call, ("name", "arguments"))
    return known


def _known_call(call: Mapping[str, Any]) -> HeldPiece:
    known: HeldPiece = {}
    if isinstance(index := call.get("index"), int):
        known["index"] = index
    if isinstance(id := call.get("id"), str) and _ID.fullmatch(id):
        known["id"] = id
    if (kind := call.get("type")) in ("function", "custom"):
        known["type"] = kind
    if isinstance(function := call.get("function"), Mapping):
        known["function"] = _strs(function, ("name", "arguments"))
    if isinstance(custom := call.get("custom"), Mapping):
        known["custom"] = _strs(custom, ("name", "input"))
    return known


def _strs(given: Mapping[str, Any], fields: tuple[str, ...]) -> HeldPiece:
    return {field: given[field] for field in fields if isinstance(given.get(field), str)}


def _known_logprobs(given: Any) -> HeldPiece | None:
    lists = (
        {k: v for k, v in given.items() if k in ("content", "refusal")} if isinstance(given, Mapping) else {}
    )
    kept = {name: list(map(_known_step, steps)) for name, steps in lists.items() if steps}
    return kept or None


def _known_step(step: Mapping[str, Any]) -> HeldPiece:
    known = _known_token(step)
    if isinstance(top := step.get("top_logprobs"), list):
        known["top_logprobs"] = list(map(_known_token, top))
    return known


def _known_token(step: Mapping[str, Any]) -> HeldPiece:
    return {k: step[k] for k in ("token", "logprob", "bytes") if k in step}


def _said(logprobs: Mapping[str, Any]) -> str:
    return "".join(str(step.get("token") or "") for steps in logprobs.values() for step in steps)


def _strings(arguments: str) -> Iterator[str]:
    """Every string in a JSON text, its keys' too, decoded; none in what is no JSON."""
    try:
        waiting = [msgspec.json.decode(arguments)]
    except (msgspec.DecodeError, RecursionError):
        return
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting += [*value.values(), *value.keys()]
        elif isinstance(value, list):
            waiting += value
