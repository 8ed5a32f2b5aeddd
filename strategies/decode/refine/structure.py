"""Whether an answer still has the structure that the client asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema
import msgspec
import re2
import referencing

from heedful.strategies.errors import RequestError

Check = Callable[[str], str | None]
"""What is wrong with a text, or None."""


def check_of(params: Mapping[str, Any]) -> Check | None:
    """A check for what `response_format` or `structured_outputs` ask; None where they ask nothing we can check.

    Raises RequestError for a schema that is none.
    """
    form = params.get("response_format")
    if isinstance(form, dict):
        if form.get("type") == "json_schema" and isinstance(form.get("json_schema"), dict):
            return _json(form["json_schema"].get("schema") or {})
        if form.get("type") == "json_object":
            return _json({"type": "object"})
    wanted = params.get("structured_outputs")
    if isinstance(wanted, dict):
        if (schema := wanted.get("json")) is not None:
            return _json(schema)
        if wanted.get("json_object"):
            return _json({"type": "object"})
        if choices := wanted.get("choice"):
            return lambda text: None if text.strip() in choices else "The answer is none of the choices."
    return None


def _json(schema: Any) -> Check:
    try:
        schema = msgspec.json.decode(schema) if isinstance(schema, str) else schema
        _Validator.check_schema(schema)
    except (msgspec.DecodeError, jsonschema.SchemaError, RecursionError) as error:
        raise RequestError(f"the JSON schema is not valid: {error}", code="invalid_schema") from error
    validator = _Validator(schema, registry=referencing.Registry())

    def check(text: str) -> str | None:
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            return f"The answer is not JSON: {error}"
        try:
            fault = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except (referencing.exceptions.Unresolvable, RecursionError):
            return None  # a reference to elsewhere, or in a circle: the engine makes of it what it can
        return None if fault is None else f"The answer does not match the schema: {fault.message[:200]}"

    return check


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    if isinstance(value, str) and (compiled := _compiled(pattern)) and not compiled.search(value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, schema: Any
) -> Iterator[jsonschema.ValidationError]:
    for pattern, subschema in patterns.items() if isinstance(value, dict) else ():
        compiled = _compiled(pattern)
        for key in value:
            if compiled and compiled.search(key):
                yield from validator.descend(value[key], subschema, path=key, schema_path=pattern)


def _compiled(pattern: str) -> Any:
    """A client's pattern, matched in linear time; None where RE2 does not have it (the engine holds to it anyway)."""
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator, {"pattern": _pattern, "patternProperties": _pattern_properties}
)
