"""The floor: what holds for every request of a tenant, whatever it asks for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from heedful.server.access.access import Access
from heedful.server.access.allowed import Allowed, OwnSteps
from heedful.server.access.client import Role, Tenant
from heedful.server.access.fields import fitted
from heedful.server.access.settings import FloorSettings, TenantSettings, VerifySettings
from heedful.server.alignments import Alignments, for_somebody
from heedful.server.config import Config, ConfigError
from heedful.strategies import ContextStrategy, HeedfulError, Plan, RequestError
from heedful.strategies.context.gate import gates
from heedful.strategies.decode.floor import Vetting
from heedful.strategies.plan import Shows
from heedful.strategies.verifiers.panel import Panel

T = TypeVar("T")
_MOST_KEPT = 256  # plans by the names that clients give
_OPEN = FloorSettings()
_STRICTEST: tuple[Shows, ...] = ("off", "own", "full")


@dataclass(slots=True)
class Floor:
    """One tenant's. `settings` are the server's and the tenant's own, in this order."""

    settings: Sequence[FloorSettings]
    alignments: Alignments
    fixed: tuple[tuple[str, ContextStrategy], ...] = ()
    """All gates, then what is enforced; the server's own before the tenant's."""
    vetting: tuple[Vetting, ...] = ()
    allowed: Allowed = field(init=False)
    _plans: OrderedDict[tuple[str | None, Shows], Plan] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.allowed = Allowed([s.allow for s in self.settings])

    @classmethod
    def of(cls, placed: Mapping[str, FloorSettings], alignments: Alignments) -> Floor | None:
        """From settings by their place in the configuration; None where they ask for nothing.

        Raises ConfigError that names the place of what can't be.
        """
        given = {where: settings for where, settings in placed.items() if settings != _OPEN}
        if not given:
            return None
        gated: list[tuple[str, ContextStrategy]] = []
        enforced: list[tuple[str, ContextStrategy]] = []
        vetting: list[Vetting] = []
        for where, settings in given.items():
            try:
                gated += gates(settings.gate, alignments.resources, param="gate")
                enforced += _enforced(settings, alignments)
                if settings.verify is not None:
                    vetting.append(_vetting(settings.verify, alignments))
                _check_names(settings, alignments)
            except HeedfulError as error:
                raise ConfigError(f"{where}.{_place(error.param)}: {error}") from error
        return cls(list(given.values()), alignments, (*gated, *enforced), tuple(vetting))

    # -- what a request gets

    def over(self, spec: str | list[Any] | None, role: Role) -> Plan:
        """The plan for a selection, on this floor. Raises RequestError for what the tenant may not choose."""
        shows = self.shows(role)
        if isinstance(spec, list):
            return self._on(self._own(spec), shows)
        if (plan := self._plans.get((spec, shows))) is None:
            plan = self._on(self._own(spec), shows)
            while len(self._plans) >= _MOST_KEPT:  # clients make them up without end
                self._plans.popitem(last=False)
            self._plans[spec, shows] = plan
        self._plans.move_to_end((spec, shows))
        return plan

    def _own(self, spec: str | list[Any] | None) -> Plan:
        holds = bool(self.fixed or self.vetting)
        if spec is None or not (self.allowed.bounds_steps or holds):
            return self.alignments.resolve(spec)
        return self.alignments.chosen(spec, OwnSteps(self.allowed, holds=holds))

    def _on(self, plan: Plan, shows: Shows) -> Plan:
        contexts = (*self.fixed, *plan.contexts)
        return replace(plan, contexts=contexts, fixed=len(self.fixed), vetting=self.vetting, shows=shows)

    def shows(self, role: Role) -> Shows:
        """How much of a trace one in this role may see: what is said of all, else everything for admins."""
        said = [s.trace for s in self.settings if s.trace is not None]
        return min(said, key=_STRICTEST.index) if said else "full" if role is Role.ADMIN else "own"

    def fields(self, fields: Mapping[str, Any], own: Set[str]) -> dict[str, Any]:
        """A request's body within what is allowed. `own`: fields that the API itself reads.

        Raises RequestError that names a field which goes to no engine here, or is above a cap.
        """
        return fitted(fields, own, self.allowed, strict=self.strict)

    # -- what it closes

    @property
    def strict(self) -> bool:
        """Whether only fields that are known to undo nothing go to an engine."""
        caps = self.allowed.caps.keys() & {"n", "max_tokens"}
        return bool(self.fixed or self.vetting or caps or self.allowed.bounds_models)

    @property
    def closes_paths(self) -> bool:
        """Whether upstreams' other paths are closed but for those that are named: nothing would hold there."""
        return self.strict or self.allowed.bounds_anything

    def models(self, engines: Mapping[str, T]) -> Mapping[str, T]:
        """Those that the tenant may choose."""
        return self.allowed.only("models", engines) if self.allowed.bounds_models else engines


class Floors:
    """Every tenant's floor, made when it is first needed."""

    def __init__(self, config: Config, alignments: Alignments) -> None:
        """Raises ConfigError for one of the configuration that can't be."""
        self._server, self._alignments = config.floor, alignments
        self._made: dict[str, tuple[FloorSettings, Floor | None]] = {}
        self._everyones = Floor.of({"floor": config.floor}, alignments)
        for name, tenant in config.tenants.items():
            self._make(name, tenant.floor)

    def of(self, tenant: Tenant) -> Floor | None:
        """None where nothing holds."""
        settings = tenant.settings.floor
        made = self._made.get(tenant.name)
        if made is None or made[0] is not settings:
            made = self._make(tenant.name, settings)
        return made[1]

    def check(self, name: str, settings: TenantSettings) -> None:
        """Raises ConfigError for a tenant's floor that can't be."""
        self._built(name, settings.floor)

    def over_all_of(self, access: Access) -> None:
        """Makes the floors of all tenants that there are, the database's too, and has those that come checked.

        Raises ConfigError for one that can't be.
        """
        for tenant in access.tenants():
            self.of(tenant)
        access.checks.append(self.check)

    def _make(self, name: str, settings: FloorSettings) -> tuple[FloorSettings, Floor | None]:
        self._made[name] = made = settings, self._built(name, settings)
        return made

    def _built(self, name: str, settings: FloorSettings) -> Floor | None:
        if settings == _OPEN:
            return self._everyones
        return Floor.of({"floor": self._server, f"tenants.{name}.floor": settings}, self._alignments)


def _place(param: str | None) -> str:
    """An option's place, where strategies name the one that requests have."""
    places = (
        ("alignment.verifiers", "verify.verifiers"),
        ("alignment.gate", "gate"),
        ("alignment", "enforce"),
    )
    for theirs, ours in places:
        if param == theirs or (param or "").startswith(f"{theirs}."):
            return ours + (param or "").removeprefix(theirs)
    return param or "enforce"


def _enforced(settings: FloorSettings, alignments: Alignments) -> Sequence[tuple[str, ContextStrategy]]:
    steps = alignments.steps(list(settings.enforce), "enforce")
    plan = alignments.plan("floor", steps, param="enforce")
    for_somebody(plan.stores, alignments.resources)
    if len(plan.contexts) != len(steps):
        raise RequestError(
            f"{plan.decoder[0]!r} decodes; what is enforced are steps that come before, such as norms",
            param="enforce",
        )
    return plan.contexts


def _vetting(settings: VerifySettings, alignments: Alignments) -> Vetting:
    panel = Panel.of(
        settings.verifiers,
        alignments.resources,
        on_error=settings.on_error,
        timeout=settings.verifier_timeout,
        param="verify.verifiers",
    )
    return Vetting(panel, settings.unresolved, settings.keep_alive)


def _check_names(settings: FloorSettings, alignments: Alignments) -> None:
    """A name that nobody has would lock everybody out, and the operator would not know why."""
    known = {*alignments.names(), *alignments.strategies()}
    for name in settings.allow.alignments or ():
        if name not in known:
            raise RequestError(f"unknown alignment {name!r}", param="allow.alignments")
    for name in settings.allow.verifiers or ():
        if name not in alignments.verifiers():
            raise RequestError(f"unknown verifier {name!r}", param="allow.verifiers")
