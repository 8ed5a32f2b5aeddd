"""Files to items and into a store: JSON lines, CSV, Markdown (a rule per heading), plain text (one per paragraph).

A file is read whole before anything is written, and every bad line is reported by its number. Writing is by chunks,
each durable when it is done: an import that was cut off is run again and finds what is there already.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import chain
from typing import Any

import msgspec

from heedful.retrieval.errors import InvalidItem
from heedful.retrieval.items import ALIASES, ITEM_FIELDS, Item, item_of, unhurried
from heedful.retrieval.store.any_store import AnyStore, Progress
from heedful.retrieval.store.database import Written

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".md": "markdown", ".markdown": "markdown", ".txt": "text"}
STARTERS = ("norms", "demos")
_CHUNK = 256
_DECLARED = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_NO_FILES = frozenset({"idna", "punycode", "raw_unicode_escape", "unicode_escape", "undefined"})
_DEEPEST = 6  # heading


@dataclass(slots=True)
class Parsed:
    """A file's items, and its bad lines as (number, what is wrong)."""

    items: list[Item] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Of the items, where each begins."""
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class Imported:
    """How many items an import added, replaced and found unchanged."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    truncated: int = 0
    """Those whose text is longer than the embedding model reads: they are found by their beginning."""

    def count(self, written: Written) -> None:
        self.added += len(written.added)
        self.replaced += len(written.replaced)
        self.unchanged += len(written.unchanged)
        self.truncated += len(written.truncated)


def decoded(data: bytes, encoding: str | None = None) -> str:
    """A file's text: UTF-8, or UTF-16 that says so in its first two bytes, or what `encoding` names.

    Raises InvalidItem with the line of what is neither.
    """
    if encoding is None:
        encoding = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8"
    try:
        if codecs.lookup(encoding).name in _NO_FILES:
            raise LookupError
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        if not isinstance(error, UnicodeDecodeError):
            raise InvalidItem(f"the file is not {encoding.upper()}: {error}", "encoding") from error
        line = data.count(b"\n", 0, error.start) + 1
        told = f"line {line} is not {encoding.upper()} (byte {error.start + 1} is 0x{data[error.start]:02x})"
        raise InvalidItem(
            f"{told}; name the encoding of the file, such as latin-1 or cp1252", "encoding"
        ) from error
    except (LookupError, ValueError) as error:  # a name with a null in it is the latter
        raise InvalidItem(f"encoding: {encoding!r} is not known as one of text", "encoding") from error


def parse(
    text: str,
    format: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    rename: Mapping[str, str] | None = None,
    extra_to_meta: bool = False,
) -> Parsed:
    """Reads a file's text. `rename` maps its fields to ours, `defaults` are fields for items that lack them.

    `extra_to_meta` keeps fields that we do not know, in `meta`, instead of refusing them. Raises InvalidItem for an
    unknown format.
    """
    readers: dict[str, Callable[[str], Iterator[tuple[int, Any]]]] = {
        "jsonl": _json_lines,
        "csv": _csv_rows,
        "markdown": _sections,
        "text": _paragraphs,
    }
    if format not in readers:
        raise InvalidItem(f"format: must be one of {', '.join(readers)}", "format")
    parsed = Parsed()
    seen: dict[str, tuple[int, Item]] = {}
    for line, value in unhurried(readers[format](text.removeprefix("\ufeff"))):
        try:
            if isinstance(value, Exception):
                raise InvalidItem(str(value))
            item = item_of(_prepared(value, rename or {}, defaults or {}, extra_to_meta))
            first, twin = seen.setdefault(item.id, (line, item))
            if twin != item:
                raise InvalidItem(f"has the id of line {first}, {item.id!r}, and says something else", "id")
            if first == line:
                parsed.items.append(item)
                parsed.lines.append(line)
        except InvalidItem as error:
            parsed.problems.append((line, str(error)))
    return parsed


def import_items(
    store: AnyStore, items: list[Item], progress: Progress = lambda step, share: None
) -> Imported:
    """Adds items chunk by chunk; what is in the store already stays as it is."""
    total, done = Imported(), 0
    for piece in pieces(items):
        total.count(store.add(piece))
        done += len(piece)
        progress("importing", done / len(items))
    return total


def pieces(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    """As many at a time as an import writes at once."""
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]


def export_lines(items: Iterable[Item]) -> Iterator[bytes]:
    """Items as JSON lines, which `parse` reads again."""
    for item in items:
        yield msgspec.json.encode(item.as_json()) + b"\n"


def starter(name: str) -> list[Item]:
    """The items that ship with heedful: `norms` or `demos`. Written for it, Apache-2.0."""
    text = (files("heedful.retrieval") / "starter" / f"{name}.jsonl").read_text(encoding="utf-8")
    parsed = parse(text, "jsonl", defaults={"meta": {"set": "heedful starter"}})
    assert not parsed.problems, parsed.problems
    return parsed.items


def _prepared(value: Any, rename: Mapping[str, str], defaults: Mapping[str, Any], extra_to_meta: bool) -> Any:
    if not isinstance(value, dict):
        return value
    value = {ALIASES.get(k, k): v for k, v in ((rename.get(k, k), v) for k, v in value.items())}
    value = {**defaults, **{k: v for k, v in value.items() if v not in (None, "")}}
    if extra_to_meta and (extra := {k: v for k, v in value.items() if k not in ITEM_FIELDS}):
        value = {k: v for k, v in value.items() if k in ITEM_FIELDS}
        value["meta"] = {**(value.get("meta") or {}), **extra}
    return value


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_lines(text), 1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
                yield number, ValueError(f"is no JSON: {error}")


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    """Rows under their header's names, each with the line that it begins on."""
    source = io.StringIO(text, newline="")
    first = source.readline()
    delimiter = _delimiter(first)
    if declared := _DECLARED.fullmatch(first):  # as spreadsheets write it
        delimiter, skipped = declared[1], 1
    else:
        skipped = source.seek(0)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        start = skipped + reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield start, ValueError(f"is no CSV: {error}")
            return
        if row is None:
            return
        if not row:
            continue
        if names is None:
            names = [name.strip() for name in row]
            twice = sorted(name for name, times in Counter(names).items() if times > 1)
            if twice:
                yield start, ValueError(f"the header has {twice[0]!r} twice")
                return
        elif len(row) != len(names):
            yield (
                start,
                ValueError(f"has {len(row)} columns, the header {len(names)} (divided by {delimiter!r})"),
            )
        else:
            value: dict[str, Any] = dict(zip(names, row, strict=True))
            if value.get("mandatory", "").lower() in _FLAGS:
                value["mandatory"] = _FLAGS[value["mandatory"].lower()]
            yield start, value


def _delimiter(header: str) -> str:
    """What divides most columns of a header."""
    return max(",;\t|", key=lambda sign: _columns(header, sign))


def _columns(header: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([header], delimiter=delimiter), []))
    except csv.Error:
        return 0  # told with its line when the rows are read


def _sections(text: str) -> Iterator[tuple[int, Any]]:
    """A heading and what stands under it is one rule; a heading over nothing but deeper ones is none."""
    heading, level, start, body = "", 0, 1, list[str]()
    fenced, lines = False, text.count("\n") + 1
    for number, line in enumerate(chain(_lines(text), ["# "]), 1):
        fenced ^= line.lstrip().startswith("```")
        last = number > lines
        found = _heading(line) if not fenced or last else None
        if found is None and not last:
            body.append(line)
            continue
        deeper = found is not None and not last and found[0] > level
        says = "\n".join(body).strip()
        if not heading:
            yield from _paragraphs("\n" * (start - 1) + "\n".join(body))
        elif says or not deeper:
            yield start, {"text": f"{heading}: {says}" if says else heading}
        if found is not None:
            (level, heading), start, body = found, number, []


def _heading(line: str) -> tuple[int, str] | None:
    """The level and the words of `## words ##`. By hand: a regular expression for it takes cubic time in spaces."""
    rest = line.lstrip("#")
    level = len(line) - len(rest)
    if not 1 <= level <= _DEEPEST or not rest[:1].isspace():
        return None
    return level, rest.strip().rstrip("#").rstrip()


def _lines(text: str) -> Iterator[str]:
    """One after the other: splitting megabytes at once would keep all other threads waiting."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _paragraphs(text: str) -> Iterator[tuple[int, Any]]:
    words, start = list[str](), 0
    for number, line in enumerate(chain(_lines(text), [""]), 1):
        if found := line.split():
            start = start if words else number
            words += found
        elif words:
            yield start, {"text": " ".join(words)}
            words = []
