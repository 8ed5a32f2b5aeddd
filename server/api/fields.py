"""Fields of request bodies that several APIs have, and the shapes that fields come in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heedful.strategies import RequestError


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
    """A list of objects. Raises RequestError that names the place of what is none."""
    if not isinstance(value, list):
        raise RequestError(f"{where}: must be a list of objects", param=where)
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise RequestError(f"{where}.{i}: must be an object", param=f"{where}.{i}")
    return value


def listed(value: Any, where: str) -> list[str]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RequestError(f"{where}: must be a list of strings", param=where)
    return value


def optional_object(body: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A field that is an object, or {} where it is left out."""
    value = body.get(field)
    if value is not None and not isinstance(value, dict):
        raise RequestError(f"{field}: must be an object", param=field)
    return value or {}
