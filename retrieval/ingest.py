"""Files to items and into a store: JSON lines, CSV, Markdown (a rule per heading), plain text (one per paragraph).

A file is read whole before anything is written, and every bad line is reported by its number. Writing is by chunks,
each durable when it is done: an import that was cut off is run again and finds what is there already.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import msgspec

from heedful.retrieval.errors import InvalidItem
from heedful.retrieval.items import ALIASES, ITEM_FIELDS, Item, item_of
from heedful.retrieval.store import Progress, Store

FORMATS = {".jsonl": "jsonl", ".csv": "csv", ".md": "markdown", ".markdown": "markdown", ".txt": "text"}
STARTERS = ("norms", "demos")
_CHUNK = 256
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*")


@dataclass(slots=True)
class Parsed:
    """A file's items, and its bad lines as (number, what is wrong)."""

    items: list[Item] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True)
class Imported:
    """How many items an import added, replaced and found unchanged."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0


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
    for line, value in readers[format](text.removeprefix("\ufeff")):
        try:
            if isinstance(value, Exception):
                raise InvalidItem(str(value))
            item = item_of(_prepared(value, rename or {}, defaults or {}, extra_to_meta))
            first, twin = seen.setdefault(item.id, (line, item))
            if twin != item:
                raise InvalidItem(f"has the id of line {first}, {item.id!r}, and says something else", "id")
            if first == line:
                parsed.items.append(item)
        except InvalidItem as error:
            parsed.problems.append((line, str(error)))
    return parsed


def import_items(store: Store, items: list[Item], progress: Progress = lambda step, share: None) -> Imported:
    """Adds items chunk by chunk; what is in the store already stays as it is."""
    total = Imported()
    for start in range(0, len(items), _CHUNK):
        written = store.add(items[start : start + _CHUNK])
        total.added += len(written.added)
        total.replaced += len(written.replaced)
        total.unchanged += len(written.unchanged)
        progress("importing", min(1.0, (start + _CHUNK) / len(items)))
    return total


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
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
                yield number, ValueError(f"is no JSON: {error}")


def _csv_rows(text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row: dict[Any, Any] | None = next(reader, None)
        except csv.Error as error:
            yield max(start, 2), ValueError(f"is no CSV: {error}")
            return
        if row is None:
            return
        if None in row or None in row.values():
            yield (
                start,
                ValueError(f"has another number of columns than the header ({len(reader.fieldnames or [])})"),
            )
            continue
        if row.get("mandatory", "").lower() in ("true", "false", "1", "0", "yes", "no"):
            row["mandatory"] = row["mandatory"].lower() in ("true", "1", "yes")
        yield start, row


def _sections(text: str) -> Iterator[tuple[int, Any]]:
    """A heading and what stands under it is one rule; a heading over nothing but deeper ones is none."""
    heading, level, start, body = "", 0, 1, list[str]()
    fenced = False
    for number, line in enumerate([*text.split("\n"), "# "], 1):
        fenced ^= line.lstrip().startswith("```")
        last = number == text.count("\n") + 2
        found = _HEADING.fullmatch(line) if not fenced or last else None
        if found is None and not last:
            body.append(line)
            continue
        deeper = found is not None and not last and len(found[1]) > level
        says = "\n".join(body).strip()
        if not heading:
            yield from _paragraphs("\n" * (start - 1) + "\n".join(body))
        elif says or not deeper:
            yield start, {"text": f"{heading}: {says}" if says else heading}
        if found is not None:
            heading, level, start, body = found[2], len(found[1]), number, []


def _paragraphs(text: str) -> Iterator[tuple[int, Any]]:
    number = 1
    for part in re.split(r"(\n[ \t\r]*\n\s*)", text):
        if says := " ".join(part.split()):
            yield number + len(part[: len(part) - len(part.lstrip())].split("\n")) - 1, {"text": says}
        number += part.count("\n")
