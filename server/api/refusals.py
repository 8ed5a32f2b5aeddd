"""What is wrong with a request body, in the words of who sent it: which field, and what it must be."""

from __future__ import annotations

import re

import msgspec
from msgspec import inspect

from heedful.strategies import RequestError

_PLACE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<kinds>[^`]+)`(?:, got `(?P<got>[^`]+)`)?(?P<bound>.*)", re.DOTALL)
_NAMES = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


def refusal(told: str, kind: type[msgspec.Struct]) -> RequestError:
    """msgspec's word for what is wrong, as the field's name and what it must be."""
    place = _PLACE.fullmatch(told)
    what, path = (place["what"], place["path"] or "") if place else (told, "")
    where = re.sub(r"\[(\d+)\]", r".\1", path.replace("[...]", "")).strip(".")
    if named := re.match(r"Object missing required field `([^`]+)`", what):
        where = f"{where}.{named[1]}".strip(".")
        what = "is required"
    elif what.startswith("Invalid enum value"):
        allowed = _allowed(inspect.type_info(kind), where.split("."))
        what = f"must be one of {', '.join(allowed)}" if allowed else what
    elif expected := _EXPECTED.fullmatch(what):
        kinds = [_NAMES.get(each, each) for each in expected["kinds"].split(" | ") if each != "null"]
        unit = "entries" if "array" in expected["kinds"] else "characters"
        bound = re.sub(r" of length >= (\d+)", rf" with at least \1 {unit}", expected["bound"])
        bound = re.sub(r" of length <= (\d+)", rf" with at most \1 {unit}", bound)
        what = f"must be {' or '.join(kinds)}{bound}"
        if got := expected["got"]:
            what += f", and is {_NAMES.get(got, got)}"
    return RequestError(f"{where}: {what}", param=where or None)


def _allowed(kind: inspect.Type, path: list[str]) -> list[str]:
    """The values that a field may have, where they are few."""
    if isinstance(kind, inspect.Metadata):
        return _allowed(kind.type, path)
    if isinstance(kind, inspect.UnionType):
        return next((found for each in kind.types if (found := _allowed(each, path))), [])
    if not path:
        return [str(value) for value in kind.values] if isinstance(kind, inspect.LiteralType) else []
    if isinstance(kind, inspect.StructType):
        fields = {field.encode_name: field.type for field in kind.fields}
        return _allowed(fields[path[0]], path[1:]) if path[0] in fields else []
    if isinstance(kind, inspect.ListType):
        return _allowed(kind.item_type, path[1:])
    return []
