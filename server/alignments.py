"""Which alignment a request gets: named ones from the configuration, single strategies, or one written inline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from heedful.server.config import Config, ConfigError, StepConfig
from heedful.strategies import HeedfulError, NotFound, Plan, RequestError, Resources, Verifier
from heedful.strategies.plan import Step
from heedful.strategies.registry import names as strategy_names
from heedful.strategies.verifiers.registry import configured

PARAM = "alignment"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request asked for. `spec` is a name, "a+b", or a list of steps; None: nothing was asked."""

    spec: str | list[Any] | None = None
    trace: bool = False

    @classmethod
    def from_body(cls, value: Any) -> Selection:
        """Reads the body field `alignment`."""
        if value is None:
            return cls()
        if isinstance(value, str | list):
            return cls(value)
        if not isinstance(value, dict):
            raise RequestError("alignment: give a name, a list of steps, or an object", param=PARAM)
        if unknown := set(value) - {"name", "pipeline", "trace"}:
            raise RequestError(
                f"alignment: unknown key {min(unknown)!r}; keys: name, pipeline, trace",
                param=f"{PARAM}.{min(unknown)}",
            )
        if "name" in value and "pipeline" in value:
            raise RequestError("alignment: give either `name` or `pipeline`", param=PARAM)
        spec, trace = value.get("pipeline", value.get("name")), value.get("trace", False)
        if not isinstance(trace, bool):
            raise RequestError("alignment.trace: must be true or false", param=f"{PARAM}.trace")
        if spec is not None and not isinstance(spec, str | list):
            raise RequestError("alignment: `name` is a string and `pipeline` a list of steps", param=PARAM)
        return cls(spec, trace)


def _verifiers(config: Config, resources: Resources) -> dict[str, Verifier]:
    built: dict[str, Verifier] = {}
    for name, spec in config.verifiers.items():
        try:
            built[name] = configured(name, spec, resources)
        except HeedfulError as error:
            raise ConfigError(f"verifiers.{name}: {error}") from error
    return built


class Alignments:
    """All alignments of this server. Named ones are built once, so a bad one stops the start."""

    def __init__(self, config: Config, resources: Resources) -> None:
        self.resources = replace(resources, verifiers=_verifiers(config, resources))
        self._named: dict[str, list[Step]] = {}
        for name, spec in config.alignments.items():
            if "+" in name or "@" in name:
                raise ConfigError(f"alignments.{name}: a name may not hold '+' or '@'")
            try:
                self._named[name] = self._steps(spec, f"alignments.{name}")
            except HeedfulError as error:
                raise ConfigError(f"alignments.{name}: {error}") from error
        self._plans: dict[str, Plan] = {}
        for name in self._named:
            self._plans[name] = self._configured(name, f"alignments.{name}")
        self.default = self._configured(config.default_alignment, "default_alignment")

    def _configured(self, spec: str, where: str) -> Plan:
        try:
            return self.resolve(spec)
        except HeedfulError as error:
            raise ConfigError(f"{where}: {error}") from error

    def names(self) -> list[str]:
        """Every name a client may use by itself: the configuration's, then single strategies that need no options."""
        single = [n for n in strategy_names() if n not in self._named and self._builds(n)]
        return sorted(self._named) + single

    def _builds(self, name: str) -> bool:
        try:
            self.resolve(name)
        except HeedfulError:
            return False
        return True

    def resolve(self, spec: str | list[Any] | None) -> Plan:
        """The plan for a selection. Raises NotFound for an unknown name, RequestError for bad options."""
        if spec is None:
            return self.default
        if isinstance(spec, str):
            if spec not in self._plans:
                plan = Plan.of(spec, self._steps(spec, PARAM), self.resources, param=PARAM)
                if "+" in spec:
                    return plan  # clients make these up without end: not kept
                self._plans[spec] = plan
            return self._plans[spec]
        return Plan.of("inline", self._steps(spec, PARAM), self.resources, param=PARAM)

    def _steps(self, spec: str | list[StepConfig], param: str) -> list[Step]:
        if isinstance(spec, str):
            return [step for part in spec.split("+") for step in self._part(part.strip(), param)]
        steps: list[Step] = []
        for i, item in enumerate(spec):
            if isinstance(item, str):
                steps += self._steps(item, param)
            elif isinstance(item, Mapping) and len(item) == 1:
                ((name, options),) = item.items()
                if not isinstance(options or {}, Mapping):
                    raise RequestError(
                        f"step {i}: the options of {name!r} must be an object", param=f"{param}.{i}"
                    )
                steps.append((str(name), dict(options or {})))
            else:
                raise RequestError(
                    f"step {i}: give a name, or one name with its options", param=f"{param}.{i}"
                )
        return steps

    def _part(self, name: str, param: str) -> list[Step]:
        if name in self._named:
            return self._named[name]
        if name in strategy_names():
            return [(name, {})]
        known = [*self._named, *strategy_names()]
        raise NotFound.among("alignment", name, known, param=param, code="alignment_not_found")
