"""What a store holds: norms and demonstrations, each with a history of versions."""

from __future__ import annotations

import hashlib
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from heedful.retrieval.errors import InvalidItem

KINDS = ("norm", "demo")
T = TypeVar("T")
_STINT, _PAUSE = 0.001, 0.0001  # seconds
_MAX_TEXT, _MAX_NAME = 1 << 20, 512  # characters
# Of Unicode's categories: control characters, halves of surrogate pairs, ends of lines and paragraphs.
_NO_NAME = frozenset({"Cc", "Cs", "Zl", "Zp"})
_NO_TEXT = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Item:
    """A norm (`text`), or a demonstration (`text` is the prompt, `answer` the good answer). `text` is embedded.

    `id`: default the digest of what it says, so that the same content is the same item. `scope`: where it holds (a
    place, a tenant), "" is everywhere. `mandatory` norms bind every answer in their scope. `valid_from` and
    `valid_until` (seconds since 1970, the second exclusive) bound when it holds. `meta` is the owner's own.
    """

    text: str
    kind: str = "norm"
    id: str = ""
    answer: str = ""
    source: str = ""
    scope: str = ""
    tags: tuple[str, ...] = ()
    mandatory: bool = False
    valid_from: float | None = None
    valid_until: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            says = "\x1f".join((self.kind, self.text, self.answer, self.source, self.scope))
            object.__setattr__(self, "id", hashlib.sha256(says.encode()).hexdigest()[:24])

    def holds(self, at: float) -> bool:
        """Whether it is valid at a time."""
        after = self.valid_from is None or self.valid_from <= at
        return after and (self.valid_until is None or at < self.valid_until)

    def as_json(self) -> dict[str, Any]:
        """The fields that say something; times in ISO 8601."""
        out: dict[str, Any] = {"id": self.id, "kind": self.kind, "text": self.text}
        for name in ("answer", "source", "scope", "tags", "mandatory", "valid_from", "valid_until", "meta"):
            if (value := getattr(self, name)) not in ("", (), False, None, {}):
                out[name] = _time_out(value) if name.startswith("valid_") else value
        return out


@dataclass(frozen=True, slots=True)
class Version:
    """One state of an item: recorded at `began`, replaced or deleted at `ended` (None: it stands)."""

    item: Item
    version: int
    began: float
    ended: float | None

    def as_json(self) -> dict[str, Any]:
        ended = None if self.ended is None else iso(self.ended)
        return {"version": self.version, "recorded": iso(self.began), "ended": ended} | self.item.as_json()


@dataclass(frozen=True, slots=True)
class Hit:
    """A found item; `score` is the cosine of its text and the query, `version` that of the item's in its history.

    `since`: when that version was recorded, in seconds since 1970.
    """

    item: Item
    score: float
    version: int = 0
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items may be found; every condition must be met.

    `scopes`: those of these scopes and those that hold everywhere (None: all). `tags`: at least one of these (empty:
    all). `at`: valid at this time (None: whenever). `upto`: written up to this row of the store (None: to the last).
    `mandatory`: whether it is (None: either).
    """

    kind: str | None = None
    scopes: frozenset[str] | None = None
    tags: frozenset[str] = frozenset()
    at: float | None = None
    upto: int | None = None
    mandatory: bool | None = None

    @property
    def timeless(self) -> Filter:
        """The same, whenever valid and written."""
        return replace(self, at=None, upto=None)

    def passes(self, item: Item) -> bool:
        """Whether an item meets every condition but `upto`."""
        return (
            self.kind in (None, item.kind)
            and (self.scopes is None or item.scope == "" or item.scope in self.scopes)
            and (not self.tags or not self.tags.isdisjoint(item.tags))
            and self.mandatory in (None, item.mandatory)
            and (self.at is None or item.holds(self.at))
        )


ALL = Filter()


def item_of(value: Any, *, kind: str | None = None) -> Item:
    """An item from JSON. Raises InvalidItem that names the field.

    `prompt`/`response` and `instruction`/`output` are read as a demonstration's text and answer.
    """
    if not isinstance(value, Mapping):
        raise InvalidItem("an item must be an object")
    value = {ALIASES.get(k, k): v for k, v in value.items()}
    if unknown := sorted(map(str, set(value) - ITEM_FIELDS)):
        known = ", ".join(sorted(ITEM_FIELDS))
        raise InvalidItem(
            f"unknown field {unknown[0]!r}; fields: {known} (put your own into meta)", unknown[0]
        )
    given = {k: v for k, v in value.items() if v is not None}
    for name in ("text", "answer", "source", "scope", "id", "kind"):
        if name in given and (not isinstance(given[name], str) or len(given[name]) > _MAX_TEXT):
            raise InvalidItem(f"{name}: must be a string of at most {_MAX_TEXT} characters", name)
        if name in given:
            check_text(given[name], name)
    check_id(given.get("id", ""))
    if not given.get("text", "").strip():
        raise InvalidItem("text: give the text of the norm, or the prompt of the demonstration", "text")
    given.setdefault("kind", kind or ("demo" if given.get("answer") else "norm"))
    if given["kind"] not in KINDS:
        raise InvalidItem(f"kind: must be one of {', '.join(KINDS)}", "kind")
    if given["kind"] == "demo" and not given.get("answer", "").strip():
        raise InvalidItem("answer: a demonstration needs one", "answer")
    tags = given.get("tags", ())
    tags = tags.split(",") if isinstance(tags, str) else tags
    if not isinstance(tags, list | tuple) or not all(isinstance(t, str) for t in tags):
        raise InvalidItem("tags: must be a list of strings", "tags")
    given["tags"] = tuple(sorted({t.strip() for t in tags if t.strip()}))
    for tag in given["tags"]:
        check_name(tag, "tags")
    check_name(given.get("scope", ""), "scope")
    if not isinstance(given.get("mandatory", False), bool):
        raise InvalidItem("mandatory: must be true or false", "mandatory")
    for name in ("valid_from", "valid_until"):
        if name in given:
            given[name] = time_of(given[name], name)
    if given.get("valid_from", -float("inf")) >= given.get("valid_until", float("inf")):
        raise InvalidItem("valid_until: must be later than valid_from", "valid_until")
    if not isinstance(given.get("meta", {}), Mapping):
        raise InvalidItem("meta: must be an object", "meta")
    return Item(**given)


def unhurried(values: Iterable[T]) -> Iterator[T]:
    """The same values, with a pause every millisecond or so in which other threads get the interpreter.

    Else they wait five milliseconds for it each time that they need it.
    """
    since = time.perf_counter()
    for value in values:
        yield value
        if time.perf_counter() - since > _STINT:
            time.sleep(_PAUSE)
            since = time.perf_counter()


def by_id(items: Iterable[Item]) -> dict[str, Item]:
    """Raises InvalidItem for an id that can't be, and for two different items of one id."""
    named: dict[str, Item] = {}
    for item in items:
        check_id(item.id)
        if named.setdefault(item.id, item) != item:
            raise InvalidItem(f"two different items have the id {item.id!r}", "id")
    return named


def check_id(id: str) -> None:
    """The rule for ids, whichever way they come: what can be a part of an address. Raises InvalidItem."""
    check_name(id, "id")
    if not {".", ".."}.isdisjoint(id.split("/")):
        raise InvalidItem("id: between slashes it may not be . or .., which addresses lose", "id")


def check_name(name: str, field: str) -> None:
    """The rule for ids, scopes and tags: one line of at most 512 characters. Raises InvalidItem."""
    if len(name) > _MAX_NAME:
        raise InvalidItem(f"{field}: must have at most {_MAX_NAME} characters, not {len(name)}", field)
    if not name.isprintable():
        for i, sign in enumerate(name):
            if unicodedata.category(sign) in _NO_NAME:
                raise InvalidItem(
                    f"{field}: holds {_sign(sign)} as character {i + 1}; give one line of text", field
                )


def check_text(text: str, field: str) -> None:
    """Raises InvalidItem for control characters other than tabs and ends of lines, and halves of surrogate pairs."""
    if found := _NO_TEXT.search(text):
        why = "half a surrogate pair" if found[0] >= "\ud800" else "a control character"
        raise InvalidItem(f"{field}: holds {_sign(found[0])}, {why}, as character {found.start() + 1}", field)


def _sign(sign: str) -> str:
    return f"U+{ord(sign):04X}"


def time_of(value: Any, name: str) -> float:
    """Seconds since 1970, from those or from ISO 8601 (without an offset: UTC)."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e11:
        return round(float(value), 6)  # as fine as ISO 8601 is written
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value.strip())
        except ValueError:
            pass
        else:
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    raise InvalidItem(f"{name}: give a time in ISO 8601 (2026-01-31 or 2026-01-31T12:00:00Z)", name)


def _time_out(seconds: float) -> str | float:
    """As `time_of` reads it again: the years that ISO 8601 does not have stay seconds."""
    text = iso(seconds)
    return text if "T" in text else seconds


def iso(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()


ITEM_FIELDS = {f.name for f in fields(Item)}
ALIASES = {
    "norm": "text",
    "prompt": "text",
    "instruction": "text",
    "response": "answer",
    "output": "answer",
}
