"""The API's OpenAPI document, made from its operations and their types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from heedful.server.api.bodies import fates
from heedful.server.api.operation import Operation, Parameter

_REFERENCE = "#/components/schemas/{name}"
_PATH_FIELD = re.compile(r"\{(\w+)(?::\w+)?\}")
_Some = Annotated[str, Meta(min_length=1)]
_ALIGNMENT = Parameter(
    "x-alignment",
    Annotated[str, Meta(pattern="^[A-Za-z0-9_.+-]+$")],
    "header",
    "An alignment's name; the body field goes before it, MODEL@ALIGNMENT after it",
)


class Fault(msgspec.Struct):
    message: str
    type: str


class Error(msgspec.Struct):
    """What went wrong, in OpenAI's shape."""

    error: Fault


class AnthropicError(msgspec.Struct, tag_field="type", tag="error"):
    """What went wrong, in Anthropic's shape."""

    error: Fault


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The whole document. Fields that it does not list are allowed everywhere: they travel on to the engine."""
    kinds = [kind for operation in operations for kind in _kinds(operation)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for name in fates(kind).refused:
                del components[kind.__name__]["properties"][name]
    _tidy(components)
    described = iter(schemas)
    paths: dict[str, Any] = {}
    for operation in operations:
        path = _PATH_FIELD.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation, described)
    return {
        "openapi": "3.1.0",
        "info": {"title": "heedful", "version": version, "description": "Models that heed norms."},
        "security": [{}, {"bearer": []}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _parameters(operation: Operation) -> list[Parameter]:
    return [*operation.parameters, *([_ALIGNMENT] if operation.streams else [])]


def _kinds(operation: Operation) -> Iterator[Any]:
    """The types of an operation, in the order in which `_operation` takes their schemas."""
    for name in _PATH_FIELD.findall(operation.path):
        yield operation.path_kinds.get(name, _Some)
    yield from (parameter.kind for parameter in _parameters(operation))
    if operation.body is not None:
        yield operation.body
    yield operation.answer
    yield AnthropicError if operation.dialect == "anthropic" else Error


def _operation(operation: Operation, schemas: Iterator[Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _tidy(next(schemas))}
        for name in _PATH_FIELD.findall(operation.path)
    ]
    for each in _parameters(operation):
        place = {"name": each.name, "in": each.place, "required": False}
        parameters.append(place | {"schema": _tidy(next(schemas)), "description": each.about})
    body = {}
    if operation.body is not None:
        content = {operation.body_media: {"schema": next(schemas)}}
        body = {"requestBody": {"required": True, "content": content}}
    answer = {operation.answer_media: {"schema": _tidy(next(schemas))}}
    for media in (*operation.other_media, *(["text/event-stream"] if operation.streams else [])):
        answer[media] = {"schema": {}}
    error = {"application/json": {"schema": next(schemas)}}
    responses: dict[str, Any] = {"200": {"description": "The answer", "content": answer}}
    for status, when in operation.also.items():
        responses[str(status)] = {"description": when, "content": answer}
    why = "The request can't be served as it stands; the message says why"
    responses["4XX"] = {"description": why, "content": error}
    responses["5XX"] = {"description": "The engine or the upstream failed", "content": error}
    return {"summary": operation.about, "parameters": parameters, **body, "responses": responses}


def _tidy(schema: Any) -> Any:
    """Without what says nothing: titles, and a default of null for what may be left out."""
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str) and "type" in schema:
            del schema["title"]
        if schema.get("default", 0) is None:
            del schema["default"]
        for value in schema.values():
            _tidy(value)
    elif isinstance(schema, list):
        for value in schema:
            _tidy(value)
    return schema
