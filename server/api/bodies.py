"""Request bodies as types: one `msgspec.Struct` an API, which checks a body and is its schema.

Handlers read checked values from the Struct and what travels on from the body itself, so that a field that nobody
here knows reaches the engine as it came. What becomes of a field stands in its annotation: it is read, unless it
says `passed`, `ignored` or `refused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from heedful.server.api.refusals import refusal
from heedful.strategies import RequestError
from heedful.strategies.trace import MOST_NODES

T = TypeVar("T", bound=msgspec.Struct)
_LONGEST = 200  # characters of a field's name, which may be as long as a body


def passed(**schema: Any) -> Meta:
    """It travels on to the engine, whose affair its value is; `schema` is for the document."""
    return Meta(extra_json_schema=schema, extra={"fate": "passed"})


def ignored(why: str) -> Meta:
    """It is taken and left: the answer is the same with and without."""
    return Meta(description=f"Ignored: {why}", extra={"fate": "ignored", "why": why})


def refused(why: str) -> Meta:
    """With it the answer would not be what was asked for."""
    return Meta(extra={"fate": "refused", "why": why})


class TraceField(msgspec.Struct, forbid_unknown_fields=True):
    """The trace, and what is told beside its notes."""

    prompt: bool = False
    live: bool = False
    nodes: Annotated[int, Meta(ge=0, le=MOST_NODES)] | None = None


class Selected(msgspec.Struct, forbid_unknown_fields=True):
    """An alignment by name or step by step."""

    name: str | list[StepField] | None = None
    pipeline: str | list[StepField] | None = None
    trace: bool | TraceField = False


StepField = str | Annotated[dict[str, Any], Meta(min_length=1, max_length=1)]
AlignmentField = (
    Annotated[str, Meta(description="A name, or several joined by '+'")] | list[StepField] | Selected | None
)
ModelField = Annotated[str, Meta(description="A model, or MODEL@ALIGNMENT")]
TemperatureField = Annotated[Any, passed(type="number", minimum=0, maximum=2)]
ShareField = Annotated[Any, passed(type="number", minimum=0, maximum=1)]
CountField = Annotated[Any, passed(type="integer", minimum=1)]
ObjectField = Annotated[Any, passed(type="object")]
TextField = Annotated[Any, passed(type="string")]
FlagField = Annotated[Any, passed(type="boolean")]
StopField = Annotated[Any, passed(anyOf=[{"type": "string"}, {"type": "array", "items": {"type": "string"}}])]
_PART = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
PartsField = Annotated[list[Any], Meta(extra_json_schema={"items": _PART})]


class StreamOptions(msgspec.Struct):
    include_usage: Annotated[Any, Meta(extra_json_schema={"type": "boolean"})] = None


class GenerationBody(msgspec.Struct, kw_only=True):
    """What OpenAI's two older APIs have in common."""

    model: ModelField
    stream: bool | None = None
    alignment: AlignmentField = None
    stream_options: Annotated[StreamOptions | None, passed()] = None
    temperature: TemperatureField = None
    top_p: ShareField = None
    max_tokens: CountField = None
    n: CountField = None
    stop: StopField = None


@dataclass(frozen=True, slots=True)
class Fates:
    """What becomes of each field of a body."""

    read: frozenset[str]
    passed: frozenset[str]
    ignored: Mapping[str, str]
    refused: Mapping[str, str]
    """With the reason, as in `ignored`."""


@cache
def fates(kind: type[msgspec.Struct]) -> Fates:
    found: dict[str, dict[str, str]] = {"read": {}, "passed": {}, "ignored": {}, "refused": {}}
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    for field in described.fields:
        extra = (field.type.extra if isinstance(field.type, inspect.Metadata) else None) or {}
        found[extra.get("fate", "read")][field.encode_name] = extra.get("why", "")
    return Fates(frozenset(found["read"]), frozenset(found["passed"]), found["ignored"], found["refused"])


def typed(fields: Mapping[str, Any], kind: type[T], *, model: str | None = None) -> T:
    """A body's checked values. Raises RequestError that names the field, and what is wrong with it.

    `model`: the one that was found to answer, where the body need not name a server's only one.
    """
    for name, why in fates(kind).refused.items():
        if fields.get(name):
            raise RequestError(f"{name}: {why}", param=name)
    known = kind.__struct_fields__
    if kind.__struct_config__.forbid_unknown_fields and (unknown := sorted(fields.keys() - set(known))):
        raise RequestError(
            f"unknown field {unknown[0][:_LONGEST]!r}; fields: {', '.join(known)}",
            param=unknown[0][:_LONGEST] or None,
        )
    try:
        return msgspec.convert(fields if model is None else {**fields, "model": model}, kind)
    except msgspec.ValidationError as error:
        raise refusal(str(error), kind) from error


def travelling(fields: Mapping[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    """What goes on to the engine under its own name: what the API passes on, and what it does not know."""
    known = fates(kind)
    return {
        name: value
        for name, value in fields.items()
        if name not in known.read and name not in known.ignored and name not in known.refused
    }


@cache
def handled(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The fields that an API reads itself, or leaves, or refuses: none goes on as it came."""
    known = fates(kind)
    return frozenset({*known.read, *known.ignored, *known.refused})


def wants_stream(body: Mapping[str, Any]) -> bool:
    stream = body.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise RequestError("stream: must be true or false", param="stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise RequestError("stream_options: must be an object", param="stream_options")
    return bool(stream)


def wants_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream is to close with its usage."""
    return bool((body.get("stream_options") or {}).get("include_usage"))


def objects(value: Any, where: str) -> list[dict[str, Any]]:
    """A list of objects, deep in a body. Raises RequestError that names the place of what is none."""
    if not isinstance(value, list):
        raise RequestError(f"{where}: must be a list of objects", param=where)
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise RequestError(f"{where}.{i}: must be an object", param=f"{where}.{i}")
    return value
