"""Classes by name, ours and third parties', whose fields are their options: strategies and verifiers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import cleandoc
from typing import Any, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from heedful.strategies.errors import NotFound, RequestError, StrategyError

T = TypeVar("T")


class Plugins(Generic[T]):
    """All classes of one kind.

    `kind`: what messages call them. `builtin`: name to "module:Class". `group`: the entry-point group in which third
    parties register theirs. `check` raises StrategyError for a class that does not fit. `code`: of the error for an
    unknown name.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        builtin: Mapping[str, str],
        check: Callable[[str, type], None],
        *,
        code: str,
    ) -> None:
        self._kind, self._group, self._builtin, self._check = kind, group, builtin, check
        self._code = code
        self._loaded: dict[str, type[T]] = {}
        self._adapters: dict[type[T], TypeAdapter[T]] = {}
        self._registered: dict[str, EntryPoint] | None = None
        self._names: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """All that can be asked for, sorted."""
        if not self._names:
            self._names = tuple(sorted({*self._builtin, *self._third_parties()}))
        return self._names

    def forget(self) -> None:
        """Looks everything up anew, after packages came or went."""
        self._loaded.clear()
        self._adapters.clear()
        self._registered, self._names = None, ()

    def _third_parties(self) -> dict[str, EntryPoint]:
        """Read once: a look through all installed packages takes tens of milliseconds."""
        if self._registered is None:
            self._registered = {}
            for entry in entry_points(group=self._group):
                self._registered.setdefault(entry.name, entry)
        return self._registered

    def load(self, name: str, *, param: str = "alignment") -> type[T]:
        """The class behind a name. Raises NotFound for an unknown one, StrategyError for one that can't be loaded."""
        if name not in self._loaded:
            self._loaded[name] = self._find(name, param)
        return self._loaded[name]

    def _find(self, name: str, param: str) -> type[T]:
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            cls = getattr(import_module(module), attribute)
        else:
            entry = self._third_parties().get(name)
            if entry is None:
                raise NotFound.among(self._kind, name, self.names(), param=param, code=self._code)
            try:
                cls = entry.load()
            except Exception as error:
                raise StrategyError(
                    f"{self._kind} {name!r} ({entry.value}) can't be loaded: {error}"
                ) from error
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise StrategyError(f"{self._kind} {name!r} is no dataclass; its fields must be its options")
        self._check(name, cls)
        return cast(type[T], cls)

    def build(self, name: str, options: Mapping[str, Any], *, param: str = "alignment") -> T:
        """One with its options, validated by its own field types.

        Raises RequestError that names the option: unknown, of a wrong type, or missing.
        """
        cls = self.load(name, param=param)
        if not isinstance(options, Mapping):
            raise RequestError(
                f"the options of {self._kind} {name!r} must be an object", param=f"{param}.{name}"
            )
        known = [f.name for f in dataclasses.fields(cls) if f.init]  # type: ignore[arg-type]
        # pydantic drops unknown keys of a plain dataclass silently, so names are compared first.
        for option in options:
            if option not in known:
                allowed = ", ".join(known) or "none"
                raise RequestError(
                    f"unknown option {option!r} of {self._kind} {name!r}; options: {allowed}",
                    param=f"{param}.{name}.{option}",
                    code="unknown_option",
                )
        try:
            return self._adapter(cls).validate_python(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise RequestError(
                f"option {where!r} of {self._kind} {name!r}: {first['msg']}",
                param=f"{param}.{name}.{where}",
                code="invalid_option",
            ) from error

    def _adapter(self, cls: type[T]) -> TypeAdapter[T]:
        if cls not in self._adapters:
            self._adapters[cls] = TypeAdapter(cls)
        return self._adapters[cls]

    def describe(self) -> dict[str, dict[str, Any]]:
        """What each is for and its options: type and default, as JSON Schema has them; or why it can't be loaded."""
        described: dict[str, dict[str, Any]] = {}
        for name in self.names():
            try:
                cls = self.load(name)
            except StrategyError as error:
                described[name] = {"error": error.message}
                continue
            about, _, details = cleandoc(cls.__doc__ or "").partition("\n")
            schema = self._adapter(cls).json_schema()
            options = _whole(schema.get("properties", {}), schema.get("$defs", {}))
            described[name] = {"about": about, "details": details.strip(), "options": options}
        return described


def _whole(schema: Any, defined: Mapping[str, Any]) -> Any:
    """A schema that refers to nothing outside itself."""
    if isinstance(schema, Mapping):
        if isinstance(name := schema.get("$ref"), str):
            return _whole(defined[name.rpartition("/")[2]], defined)
        return {key: _whole(value, defined) for key, value in schema.items()}
    return [_whole(each, defined) for each in schema] if isinstance(schema, list) else schema
