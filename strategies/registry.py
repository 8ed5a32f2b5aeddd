"""Strategies by name: ours, listed here, and third parties' through the entry-point group `heedful.strategies`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from heedful.strategies.errors import NotFound, RequestError, StrategyError
from heedful.strategies.run import ContextStrategy, DecodingStrategy

BUILTIN = {
    "demos": "heedful.strategies.demos:Demos",
    "direct": "heedful.strategies.direct:Direct",
    "norms": "heedful.strategies.norms:Norms",
    "principles": "heedful.strategies.principles:Principles",
    "rain": "heedful.strategies.rain:Rain",
    "urial": "heedful.strategies.urial:Urial",
}

AnyStrategy = ContextStrategy | DecodingStrategy


def names() -> list[str]:
    """All strategies that can be asked for."""
    return sorted({*BUILTIN, *(e.name for e in entry_points(group="heedful.strategies"))})


@cache
def strategy_class(name: str) -> type[AnyStrategy]:
    """The class behind a name. Raises NotFound for an unknown one, StrategyError for one that can't be loaded."""
    if name in BUILTIN:
        module, _, attribute = BUILTIN[name].partition(":")
        cls = getattr(import_module(module), attribute)
    else:
        found = [e for e in entry_points(group="heedful.strategies") if e.name == name]
        if not found:
            raise NotFound.among("strategy", name, names(), param="alignment", code="alignment_not_found")
        try:
            cls = found[0].load()
        except Exception as error:
            raise StrategyError(f"strategy {name!r} ({found[0].value}) can't be loaded: {error}") from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise StrategyError(f"strategy {name!r} is no dataclass; its fields must be its options")
    if hasattr(cls, "prepare") == hasattr(cls, "stream"):
        raise StrategyError(f"strategy {name!r} must have either `prepare` or `stream`, and not both")
    if not hasattr(cls, "needs") or (hasattr(cls, "stream") and not hasattr(cls, "streaming")):
        raise StrategyError(f"strategy {name!r} must declare `needs` (and `streaming`, if it decodes)")
    return cast(type[AnyStrategy], cls)


def build(name: str, options: Mapping[str, Any], *, param: str = "alignment") -> AnyStrategy:
    """A strategy with its options, validated by its own field types.

    Raises RequestError that names the option: unknown, of a wrong type, or missing.
    """
    cls = strategy_class(name)
    known = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
    # pydantic drops unknown keys of a plain dataclass silently, so names are compared first.
    for option in options:
        if option not in known:
            allowed = ", ".join(known) or "none"
            raise RequestError(
                f"unknown option {option!r} of strategy {name!r}; options: {allowed}",
                param=f"{param}.{name}.{option}",
                code="unknown_option",
            )
    try:
        return _adapter(cls).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise RequestError(
            f"option {where!r} of strategy {name!r}: {first['msg']}",
            param=f"{param}.{name}.{where}",
            code="invalid_option",
        ) from error


@cache
def _adapter(cls: type[AnyStrategy]) -> TypeAdapter[AnyStrategy]:
    return TypeAdapter(cls)


def describe_options() -> dict[str, dict[str, Any]]:
    """Every strategy's kind and options: type and default, as JSON Schema has them; or why it can't be loaded."""
    described: dict[str, dict[str, Any]] = {}
    for name in names():
        try:
            cls = strategy_class(name)
        except StrategyError as error:
            described[name] = {"error": error.message}
            continue
        schema = _adapter(cls).json_schema()
        kind = "decoding" if hasattr(cls, "stream") else "context"
        about = (cls.__doc__ or "").strip().split("\n")[0]
        described[name] = {"kind": kind, "about": about, "options": schema.get("properties", {})}
    return described
