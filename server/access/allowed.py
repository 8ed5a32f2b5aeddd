"""What a request may choose of models, alignments and their options, by the operator's `allow`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from heedful.server.access.settings import AllowSettings
from heedful.strategies import NotFound, RequestError
from heedful.strategies.registry import STRATEGIES
from heedful.strategies.verifiers.registry import VERIFIERS

T = TypeVar("T")
CAPS = ("n", "max_tokens", "max_seconds", "parallel_leaves", "max_rounds")
_CHOSEN = ("models", "alignments", "verifiers", "stores")
# Their `max_tokens` bounds what is looked up, and not what a model writes.
_READERS = frozenset({"norms"})
# What a model writes for itself: no request may give it more than an answer. Its default is its author's affair.
_WRITTEN = {"max_feedback_tokens": "max_tokens", "max_reasoning_tokens": "max_tokens"}


class Allowed:
    """Several `allow` sections at once: all of them must allow."""

    def __init__(self, sections: Sequence[AllowSettings]) -> None:
        self._lists: dict[str, frozenset[str] | None] = {}
        for name in (*_CHOSEN, "paths"):
            given = [frozenset(listed) for s in sections if (listed := getattr(s, name)) is not None]
            self._lists[name] = frozenset.intersection(*given) if given else None
        self.caps: dict[str, float] = {}
        for name in (*CAPS, "steps"):
            if values := [value for s in sections if (value := getattr(s, name)) is not None]:
                self.caps[name] = min(values)
        self.fields = frozenset(field for s in sections for field in s.fields)

    @property
    def bounds_steps(self) -> bool:
        """Whether not every alignment may be chosen as it is written."""
        return bool(self.caps) or any(self._lists[name] is not None for name in _CHOSEN)

    @property
    def bounds_models(self) -> bool:
        return self._lists["models"] is not None

    @property
    def bounds_stores(self) -> bool:
        return self._lists["stores"] is not None

    @property
    def bounds_anything(self) -> bool:
        return self.bounds_steps or self._lists["paths"] is not None

    def has(self, kind: str, name: str) -> bool:
        listed = self._lists[kind]
        return listed is None or name in listed

    def only(self, kind: str, names: Mapping[str, T]) -> dict[str, T]:
        """Those of some that may be chosen."""
        return {name: each for name, each in names.items() if self.has(kind, name)}

    def path(self, path: str) -> bool:
        """Whether a path of an upstream's, below /v1, may be asked for. One that nobody named may not."""
        return any(path == each or path.startswith(f"{each}/") for each in self._lists["paths"] or ())

    def require(self, kind: str, name: Any, param: str) -> None:
        """Raises NotFound, in the words for what is not there at all: what others have is nobody's to know."""
        listed = self._lists[kind]
        if listed is not None and name not in listed:
            what = kind.removesuffix("s")
            code = "model_not_found" if kind == "models" else f"{what}_not_found"
            raise NotFound.among(what, str(name), listed, param=param, code=code)


class OwnSteps:
    """One request's own alignment, step by step. Raises RequestError for what it may not choose."""

    def __init__(self, allowed: Allowed, *, holds: bool = False) -> None:
        """`holds`: whether something is enforced or verified, which no pattern of the request's own may redact."""
        self._allowed, self._holds = allowed, holds
        self._steps = 0

    def __call__(self, name: str, options: dict[str, Any] | None) -> dict[str, Any]:
        """The options that a step runs with. None: it is an alignment of the configuration, which may do more."""
        self._allowed.require("alignments", name, "alignment")
        self._steps += 1
        most = self._allowed.caps.get("steps")
        if most is not None and self._steps > most:
            raise _not_allowed(f"alignment: has more than {most:g} steps, which is the most here")
        if options is None or name not in STRATEGIES.names():
            return options or {}
        return self.fitted(name, options, STRATEGIES.load(name), f"alignment.{name}")

    def fitted(self, name: str, options: Mapping[str, Any], kind: type, where: str) -> dict[str, Any]:
        """Options within the caps, set to them where they are left open."""
        fitted = dict(options)
        defaults = {f.name: _default(f) for f in dataclasses.fields(kind) if f.init}
        for cap, most in self._allowed.caps.items():
            if cap in defaults and not (cap == "max_tokens" and name in _READERS) and cap not in options:
                if defaults[cap] is None or defaults[cap] > most:
                    fitted[cap] = type(most)(most)
        if options.get("extra") and name in _READERS and self._allowed.bounds_stores:
            raise _not_allowed(
                f"{where}.extra: norms of your own can't be used here, only those of some stores"
            )
        own = {k: v for k, v in defaults.items() if k not in _WRITTEN}
        self._walk({**own, **fitted}, where, reads=name in _READERS)
        self._gate({**defaults, **fitted}, where)
        return fitted

    def _gate(self, options: Mapping[str, Any], where: str) -> None:
        """What only gates have: alignments to choose from, and patterns of values to hide."""
        branches = options.get("on")
        for chosen in branches.values() if isinstance(branches, Mapping) else ():
            for part in chosen.split("+") if isinstance(chosen, str) else ():
                if self(part.strip(), {}):  # as it stands by its name it is above a cap
                    raise _not_allowed(
                        f"{where}.on: {part.strip()!r} does more by default than may be chosen here"
                    )
        redact = options.get("redact")
        hidden = redact if isinstance(redact, list | tuple) else ()
        if self._holds and not all(isinstance(each, str) for each in hidden):
            raise _not_allowed(f"{where}.redact: patterns of your own can't be used here; give names")

    def _walk(self, value: Any, where: str, *, reads: bool = False) -> None:
        """Looks at every option by its name, however deep."""
        if isinstance(value, Mapping):
            for key, inner in value.items():
                at = f"{where}.{key}"
                if key == "verifiers" or (key == "value" and isinstance(inner, list | tuple)):
                    self._verifiers(inner, at)
                else:
                    self._option(str(key), inner, at, reads=reads)
                    self._walk(inner, at, reads=reads)
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                self._walk(inner, f"{where}.{i}", reads=reads)

    def _option(self, key: str, value: Any, where: str, *, reads: bool) -> None:
        for kind, ends in (("models", ("_model", "_models")), ("stores", ("_store", "_stores"))):
            if f"_{key}".endswith(ends):
                for name in _names(value):
                    self._allowed.require(kind, name, where)
        cap = _WRITTEN.get(key, key)
        if cap in self._allowed.caps and not (key == "max_tokens" and reads):
            at_most(key, value, self._allowed.caps[cap], where)

    def _verifiers(self, listed: Any, where: str) -> None:
        for spec in listed if isinstance(listed, list | tuple) else [listed]:
            self.verifier(spec, where)

    def verifier(self, spec: Any, where: str) -> Any:
        """A verifier as it may be: a name, or a name with its options."""
        if isinstance(spec, str):
            self._verifier(spec, {}, where)
        elif isinstance(spec, Mapping):
            for name, options in spec.items():
                self._verifier(str(name), options or {}, where)

    def _verifier(self, name: str, options: Any, where: str) -> None:
        self._allowed.require("verifiers", name, where)
        if name in VERIFIERS.names() and isinstance(options, Mapping):
            kind = VERIFIERS.load(name)
            defaults = {f.name: _default(f) for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
            # A short verdict is no answer: what it writes by default is its author's affair.
            defaults = {k: v for k, v in defaults.items() if k not in CAPS}
            self._walk({**defaults, **options}, f"{where}.{name}")


def looks_back(spec: Any) -> bool:
    """Whether a request's own steps read stores as they once stood, which only those who may read a history may."""
    if isinstance(spec, Mapping):
        return spec.get("as_of") is not None or any(map(looks_back, spec.values()))
    return isinstance(spec, list | tuple) and any(map(looks_back, spec))


def _not_allowed(message: str) -> RequestError:
    return RequestError(message, param="alignment", code="alignment_not_allowed")


def at_most(name: str, value: Any, most: float, where: str) -> None:
    """Raises RequestError for a number above `most`, and for what is no number and might be read as one."""
    if value is None:
        return
    whole = isinstance(most, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise RequestError(
            f"{where}: must be a {'whole ' if whole else ''}number", param=where, code="invalid_value"
        )
    if value > most:
        raise RequestError(f"{where}: {name} may be {most:g} at most here", param=where, code="above_limit")


def _names(value: Any) -> Iterable[Any]:
    """The names that an option holds: one, a list, or the keys of an object. Anything else is no name."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple | set | frozenset):
        return [name for each in value for name in _names(each)]
    if isinstance(value, Mapping):
        return map(str, value)
    return (value,)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None
