"""The tool calls of one answer, told apart however an upstream marks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec

from heedful.strategies import HeedfulError

_OWN = frozenset({"index", "id", "type", "function", "custom"})
ChoiceBody = Mapping[str, Any]


@dataclass(slots=True)
class _Call:
    """`place` and `id` are what the upstream marks it by; `held` are arguments that could not go out yet."""

    place: int | None
    id: str | None
    kind: str = "function"
    name: str = ""
    said: str = ""
    held: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    index: int | None = None
    """Ours; given once the call is opened."""

    @property
    def written(self) -> str:
        """The arguments so far."""
        return self.said + self.held

    @property
    def empty(self) -> bool:
        return not (self.name or self.held or self.id or self.extra)


class Calls:
    """Takes pieces of tool calls as an upstream sends them, and gives them back with a distinct index each.

    An id that is new is another call, whatever its index; without an index a piece belongs to the call of its id,
    else to the latest. A name that comes late, in pieces or again with every piece goes out once, whole; so a call
    is opened with its first arguments, or when another begins. Calls open in order.
    """

    def __init__(self, nonsense: Callable[[str], HeedfulError]) -> None:
        self._all: list[_Call] = []
        self._opened = 0
        self._waiting = 0
        """How many at the front are opened."""
        self._ids: set[str] = set()
        self._nonsense = nonsense

    def take(self, pieces: Iterable[Any] | None, *, apart: bool = False) -> list[dict[str, Any]]:
        """What can be said now. `apart`: each piece is a call of its own, as in a whole answer."""
        given = [p for p in pieces or () if p is not None]
        said: list[dict[str, Any]] = []
        for i, piece in enumerate(given):
            if not isinstance(piece, Mapping):
                raise self._nonsense("a tool call of its answer is no object")
            body = piece.get("function") or piece.get("custom") or {}
            if not isinstance(body, Mapping):
                raise self._nonsense("a tool call of its answer has no function")
            call = None if apart else self._belongs(piece, body, i if len(given) > 1 else None)
            said += self._add(call or self._new(piece), piece, body)
        return said

    def end(self) -> list[dict[str, Any]]:
        """What was held back. Raises where a call has no name."""
        said = self._open(last=True)
        for call in self._all:
            if call.index is not None and not call.said and call.kind == "function":
                call.said = "{}"  # what no arguments are in JSON
                said.append({"index": call.index, "function": {"arguments": "{}"}})
        return said

    # -- which call a piece belongs to

    def _belongs(self, piece: ChoiceBody, body: ChoiceBody, nth: int | None) -> _Call | None:
        """The call that a piece goes on with; None for a new one. `nth`: its place among several in one event."""
        place, id, name = _place(piece), _id(piece), body.get("name") or ""
        if not isinstance(name, str):
            raise self._nonsense("the name of a tool call of its answer is no string")
        latest = self._all[-1] if self._all else None
        if place is not None:
            found = self._last(lambda c: c.place == place and id in (None, c.id))
            if found is None and id is not None:
                unnamed = self._last(lambda c: c.place == place and c.id is None)
                if unnamed is not None and (not name or name.startswith(unnamed.name)):
                    found = unnamed  # an id that comes late
                elif not name:  # the same call under another index
                    found = self._last(lambda c: c.id == id)
        elif id is not None:
            found = self._last(lambda c: c.id == id)
            if found is None and latest and latest.id is None and not (name and latest.name):
                found = latest
        elif nth is not None and not name:
            found = self._all[nth] if nth < len(self._all) else None
        else:
            found = latest
            if found and name and found.name and (found.written or nth or "arguments" in body):
                found = None
        if found and name and found.written and _another(found, name, _arguments(body)):
            return None
        return found

    def _last(self, fits: Callable[[_Call], bool]) -> _Call | None:
        return next((c for c in reversed(self._all) if fits(c)), None)

    def _new(self, piece: ChoiceBody) -> _Call:
        self._all.append(call := _Call(_place(piece), _id(piece)))
        return call

    # -- what can be said

    def _add(self, call: _Call, piece: ChoiceBody, body: ChoiceBody) -> list[dict[str, Any]]:
        call.extra |= {k: v for k, v in piece.items() if k not in _OWN and v is not None}
        if piece.get("custom") and not piece.get("function"):
            call.kind = "custom"
        call.id = call.id or _id(piece)
        call.held += _arguments(body)
        if call.index is None and isinstance(name := body.get("name"), str):
            # In pieces; but some servers say all of it, or all so far, with every piece.
            call.name = name if name.startswith(call.name) else call.name + name
        if call.index is not None and (call.held or call.extra):
            return [self._piece(call)]
        return self._open()

    def _open(self, *, last: bool = False) -> list[dict[str, Any]]:
        """Opens the calls whose names are whole, up to the first whose name is not."""
        said: list[dict[str, Any]] = []
        while self._waiting < len(self._all):
            call = self._all[self._waiting]
            over = last or self._waiting + 1 < len(self._all)
            if not (call.empty and over):
                if not call.name and last:
                    raise self._nonsense("a tool call of its answer has no name")
                if not (call.name and (call.held or over)):
                    break
                call.index = self._opened
                self._opened += 1
                said.append(self._piece(call, opens=True))
            self._waiting += 1
        return said

    def _piece(self, call: _Call, *, opens: bool = False) -> dict[str, Any]:
        body = {"arguments" if call.kind == "function" else "input": call.held}
        piece: dict[str, Any] = {"index": call.index}
        if opens:
            id = call.id if call.id and call.id not in self._ids else f"call_{uuid4().hex[:24]}"
            self._ids.add(id)
            piece |= {"id": id, "type": call.kind}
            body = {"name": call.name, **body}
        piece |= {call.kind: body, **call.extra}
        call.said += call.held
        call.held, call.extra = "", {}
        return piece


def joined(pieces: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The pieces of whole calls, a call each."""
    calls: dict[int, dict[str, Any]] = {}
    for piece in pieces:
        if (known := calls.get(piece["index"])) is not None:
            known["function"]["arguments"] += piece["function"]["arguments"]
        else:
            calls[piece["index"]] = dict(piece)
    return list(calls.values())


def _place(piece: ChoiceBody) -> int | None:
    place = piece.get("index")
    return place if isinstance(place, int) and not isinstance(place, bool) else None


def _id(piece: ChoiceBody) -> str | None:
    id = piece.get("id")
    return id if isinstance(id, str) and id else None


def _arguments(body: ChoiceBody) -> str:
    given = body.get("arguments", body.get("input"))
    if given is None or isinstance(given, str):
        return given or ""
    return msgspec.json.encode(given).decode()  # some servers send the object itself


def _another(call: _Call, name: str, text: str) -> bool:
    """Whether a name that comes after arguments begins another call, and is not just late or said again."""
    if not call.name:
        return False
    if name != call.name:
        return call.index is not None or not name.startswith(call.name)
    if not text:
        return False
    try:
        msgspec.json.decode(call.written)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
