"""Which alignment a request gets: named ones from the configuration, single strategies, or one written inline."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from heedful.retrieval.store.readable import SHARED
from heedful.server.access.settings import StepConfig
from heedful.server.config import Config, ConfigError
from heedful.strategies import HeedfulError, NotFound, Plan, RequestError, Resources, Verifier
from heedful.strategies.plan import Step
from heedful.strategies.registry import names as strategy_names
from heedful.strategies.retrieve import require_store
from heedful.strategies.trace import MOST_NODES, TraceWish
from heedful.strategies.verifiers.registry import VERIFIERS, configured

PARAM = "alignment"
Choose = Callable[[str, dict[str, Any] | None], dict[str, Any]]
"""Called with each step that a request writes: a strategy's name and options, or an alignment's of the configuration
and None. Returns the options to run it with; raises RequestError for what the request may not choose."""
_MOST_KEPT = 256  # plans by the names that clients give, such as "a+b"
_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Selection:
    """What a request asked for. `spec` is a name, "a+b", or a list of steps; None: nothing was asked."""

    spec: str | list[Any] | None = None
    trace: TraceWish | None = None
    """What is wanted of the trace; None: no trace."""

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
        spec, trace = value.get("pipeline", value.get("name")), _wish(value.get("trace", False))
        if spec is not None and not isinstance(spec, str | list):
            raise RequestError("alignment: `name` is a string and `pipeline` a list of steps", param=PARAM)
        return cls(spec, trace)


def _wish(value: Any) -> TraceWish | None:
    """Reads `alignment.trace`."""
    if isinstance(value, bool):
        return TraceWish() if value else None
    param = f"{PARAM}.trace"
    if not isinstance(value, dict):
        raise RequestError(f"{param}: must be true or false, or an object", param=param)
    if unknown := set(value) - {"prompt", "live", "nodes"}:
        raise RequestError(
            f"{param}: unknown key {min(unknown)!r}; keys: prompt, live, nodes",
            param=f"{param}.{min(unknown)}",
        )
    for name in ("prompt", "live"):
        if not isinstance(value.get(name, False), bool):
            raise RequestError(f"{param}.{name}: must be true or false", param=f"{param}.{name}")
    nodes = value.get("nodes")
    whole = isinstance(nodes, int) and not isinstance(nodes, bool) and 0 <= nodes <= MOST_NODES
    if nodes is not None and not whole:
        raise RequestError(
            f"{param}.nodes: must be a whole number from 0 to {MOST_NODES}", param=f"{param}.nodes"
        )
    return TraceWish(value.get("prompt", False), value.get("live", False), nodes)


def _verifiers(config: Config, resources: Resources) -> dict[str, Verifier]:
    built: dict[str, Verifier] = {}
    for name, spec in config.verifiers.items():
        with _placed(f"verifiers.{name}"):
            named: set[tuple[str, str]] = set()
            built[name] = configured(name, spec, replace(resources, named=named))
            for_somebody(named, resources)
    return built


def for_somebody(named: Iterable[tuple[str, str]], resources: Resources) -> None:
    """Raises a RequestError where a store that the configuration names is nobody's: a slip, most likely."""
    stores = resources.stores
    for strategy, name in named:
        own = stores is not None and not name.startswith(SHARED)
        if stores is None or not own or not any(stores.below(t).has(name) for t in stores.tenants()):
            require_store(resources, strategy, name)


class Alignments:
    """All alignments of this server. Named ones are built once, so a bad one stops the start."""

    def __init__(self, config: Config, resources: Resources) -> None:
        verifiers = _verifiers(config, resources)
        self.resources = replace(resources, verifiers=verifiers, alignment=self._chosen)
        self._specs = config.alignments
        self._choosing: list[str] = []
        """The alignments that are being built, each because a gate of the one before may choose it."""
        self._steps_of: dict[str, list[Step]] = {}
        self._configured: dict[str, Plan] = {}
        self._single: dict[str, Plan] = {}
        self._asked: OrderedDict[str, Plan] = OrderedDict()
        """Plans that clients have named, the latest last."""
        for name in self._specs:
            if not name.strip() or name != name.strip() or "+" in name or "@" in name:
                raise ConfigError(
                    f"alignments.{name}: a name may not hold '+' or '@', nor begin or end in space"
                )
        for name in self._specs:
            self._build(name)
        # Now, because it imports strategies, for which no request need wait.
        for name in strategy_names():
            if name not in self._configured:
                with suppress(HeedfulError):  # it needs options
                    self._single[name] = self.plan(name, [(name, {})])
        with _placed("default_alignment"):
            self.default = self.resolve(config.default_alignment)
            for_somebody(self.default.stores, self.resources)

    def plan(self, name: str, steps: Sequence[Step], *, param: str = PARAM) -> Plan:
        """A plan for every tenant: whose stores it names is known once a request is there (`Plan.require_stores`)."""
        return Plan.of(name, steps, replace(self.resources, named=set()), param=param)

    def _build(self, name: str) -> Plan:
        """One of the configuration's."""
        if name not in self._configured:
            steps = self._named(name, ())
            with self._unlooped(name), _placed(f"alignments.{name}"):
                plan = self.plan(name, steps, param=f"alignments.{name}")
                for_somebody(plan.stores, self.resources)
                self._configured[name] = plan
        return self._configured[name]

    def _chosen(self, name: str) -> Plan:
        """An alignment that a gate may choose."""
        name = "+".join(part.strip() for part in name.split("+"))
        if name in self._specs:
            return self._build(name)
        with self._unlooped(name):
            return self.resolve(name)

    @contextmanager
    def _unlooped(self, name: str) -> Iterator[None]:
        """Raises RequestError for an alignment that is being built already."""
        if name in self._choosing:
            circle = " → ".join((*self._choosing[self._choosing.index(name) :], name))
            raise RequestError(f"gates choose each other in a circle: {circle}", param=PARAM)
        self._choosing.append(name)
        try:
            yield
        finally:
            self._choosing.pop()

    def plans(self) -> dict[str, Plan]:
        """What clients may use by name alone: the configuration's, then single strategies that need no options."""
        return {name: self._configured[name] for name in sorted(self._configured)} | self._single

    def names(self) -> list[str]:
        return list(self.plans())

    def strategies(self) -> Sequence[str]:
        """Whatever can be a step, those that need options too."""
        return strategy_names()

    def verifiers(self) -> frozenset[str]:
        """All that can judge, the configuration's own among them."""
        return frozenset({*self.resources.verifiers, *VERIFIERS.names()})

    def chosen(self, spec: str | list[Any], choose: Choose) -> Plan:
        """As `resolve`, for a request that may not choose everything. Named alignments of ours are as they are."""
        if isinstance(spec, str) and spec in self._specs:
            choose(spec, None)
            return self._configured[spec]
        name = "+".join(part.strip() for part in spec.split("+")) if isinstance(spec, str) else "inline"
        return self.plan(name, self.steps(spec, PARAM, choose))

    def steps(self, spec: str | list[Any], param: str, choose: Choose | None = None) -> list[Step]:
        """All steps of a selection."""
        return self._steps(spec, param, (), choose)

    def resolve(self, spec: str | list[Any] | None) -> Plan:
        """The plan for a selection. Raises NotFound for an unknown name, RequestError for bad options."""
        if spec is None:
            return self.default
        if not isinstance(spec, str):
            return self.plan("inline", self._steps(spec, PARAM))
        if spec.count("+") >= _MOST_STEPS:
            raise RequestError(f"an alignment has {_MOST_STEPS} steps at most", param=PARAM)
        if (plan := self._known(spec)) is None:
            name = "+".join(part.strip() for part in spec.split("+"))
            if (plan := self._known(name)) is None:
                plan = self.plan(name, self._steps(name, PARAM))
                # Clients make these up without end.
                while len(self._asked) >= _MOST_KEPT:
                    self._asked.popitem(last=False)
                self._asked[name] = plan
        if plan.name in self._asked:
            self._asked.move_to_end(plan.name)
        return plan

    def _known(self, name: str) -> Plan | None:
        return self._configured.get(name) or self._single.get(name) or self._asked.get(name)

    def _steps(
        self,
        spec: str | list[StepConfig],
        param: str,
        within: tuple[str, ...] = (),
        choose: Choose | None = None,
    ) -> list[Step]:
        """All steps of a selection; `within` are the named alignments whose definition it is part of."""
        steps: list[Step] = []
        for i, item in enumerate([spec] if isinstance(spec, str) else spec):
            if isinstance(item, str):
                for part in item.split("+"):
                    steps += self._part(part.strip(), param, within, choose)
            elif isinstance(item, Mapping) and len(item) == 1:
                ((name, options),) = item.items()
                if not isinstance(options or {}, Mapping):
                    raise RequestError(
                        f"step {i}: the options of {name!r} must be an object", param=f"{param}.{i}"
                    )
                given = dict(options or {})
                steps.append((str(name), choose(str(name), given) if choose else given))
            else:
                raise RequestError(
                    f"step {i}: give a name, or one name with its options", param=f"{param}.{i}"
                )
            if len(steps) > _MOST_STEPS:
                raise RequestError(f"an alignment has {_MOST_STEPS} steps at most", param=param)
        return steps

    def _part(self, name: str, param: str, within: tuple[str, ...], choose: Choose | None) -> list[Step]:
        # A name of the configuration's hides the strategy that is called the same, but not from its own definition.
        if name in self._specs and (name != (within or ("",))[-1] or name not in strategy_names()):
            if choose:
                choose(name, None)
            return self._named(name, within)
        options = choose(name, {}) if choose else {}
        if name in strategy_names():
            return [(name, options)]
        known = [*self._specs, *strategy_names()]
        raise NotFound.among("alignment", name, known, param=param, code="alignment_not_found")

    def _named(self, name: str, within: tuple[str, ...]) -> list[Step]:
        """The steps of one of the configuration's, whatever the order in which they stand there."""
        if name not in self._steps_of:
            if name in within:
                circle = " → ".join((*within[within.index(name) :], name))
                raise ConfigError(f"alignments.{within[-1]}: these are made of each other: {circle}")
            with _placed(f"alignments.{name}"):
                self._steps_of[name] = self._steps(self._specs[name], f"alignments.{name}", (*within, name))
        return self._steps_of[name]


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """What the configuration has wrong, with its place."""
    try:
        yield
    except HeedfulError as error:
        raise ConfigError(f"{where}: {error}") from error
