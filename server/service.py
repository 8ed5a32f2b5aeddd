"""What all requests of one server share: engines, alignments, limits, and whether it is well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from heedful.server.access.access import Access
from heedful.server.access.allowed import looks_back
from heedful.server.access.client import ANYBODY, EVERYONE, Client, Role, Tenant
from heedful.server.access.floor import Floor, Floors
from heedful.server.access.letting_in import client_of
from heedful.server.access.roles import not_allowed
from heedful.server.access.settings import RecordSettings
from heedful.server.alignments import Alignments, Selection
from heedful.server.config import Config, ConfigError
from heedful.server.edge.room import BodyRoom
from heedful.server.engines.served import ServedModel
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.limits.account import ServerLimits, account_of
from heedful.server.limits.budgets import Budgets
from heedful.server.limits.line import FairLine, UnderWay
from heedful.server.limits.table import SharedRates, SharedTable, SharedUnderWay
from heedful.server.limits.windows import Rates
from heedful.server.log import logger, one_line
from heedful.server.observe.facts import Facts, Sink, facts_of
from heedful.server.observe.observers import Observers
from heedful.server.records.keeping import DecisionRecords
from heedful.server.stores import folder_of, stores_of, usage_file
from heedful.server.workers.wire import LIMITS, WorkerPlace
from heedful.strategies import (
    Engine,
    EngineUnavailable,
    HeedfulError,
    Ledger,
    MissingCapability,
    NotFound,
    Plan,
    RequestError,
    Resources,
    Run,
    Trace,
)
from heedful.strategies.trace import TraceWish

_DEADLINE = "heedful.deadline"  # where a request's ASGI scope holds it


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers a request, and how."""

    engine: ServedModel
    """As it serves this one request: bound to the client's own key and ids."""
    plan: Plan
    trace: TraceWish | None
    """What the client wants to be told; None: nothing."""
    client: Client = ANYBODY
    facts: Facts | None = None
    """What is gathered of the request, where somebody is told."""
    floor: Floor | None = None
    """What holds for the client."""


@dataclass(slots=True)
class Service:
    """The server's state."""

    config: Config
    engines: Mapping[str, ServedModel]
    alignments: Alignments
    access: Access = field(init=False)
    floors: Floors = field(init=False)
    limits: ServerLimits = field(init=False)
    place: WorkerPlace | None = None
    """Among the server's workers, where there are several."""
    sinks: list[Sink] = field(default_factory=list)
    """Who is told of each request at its end."""
    records: DecisionRecords = field(init=False)
    observers: Observers = field(init=False)
    room: BodyRoom = field(init=False)
    """For bodies of requests that are not admitted yet."""
    _of_tenants: dict[str, tuple[Tenant, Resources]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        stores = self.alignments.resources.stores
        folder = (stores.folder if stores is not None else None) or folder_of(self.config)
        self.access = Access(self.config, folder)
        self.floors = Floors(self.config, self.alignments)
        self.floors.over_all_of(self.access)
        self.records = DecisionRecords(folder, self._recording())
        self._keep_records()
        self.access.changed.append(self._keep_records)
        self.observers = Observers(self.config, self.engines, frozenset(self.alignments.plans()))
        self.sinks += self.observers.sinks
        budgets = Budgets(usage_file(self.config))
        self.room = BodyRoom(self.config.room_for_bodies)
        metrics = self.observers.metrics
        metrics.follow(metrics.body_bytes, lambda: self.room.held)
        metrics.follow(metrics.bodies_waiting, lambda: self.room.waiting)
        self.limits = ServerLimits(*self._counting(), budgets, metrics)

    def _counting(self) -> tuple[Rates, UnderWay | SharedUnderWay, FairLine | None]:
        """Where it is counted what a minute has used and what is under way, and the line."""
        place, storage, admission = self.place, self.config.limits_storage, self.config.admission
        if place is None:
            return Rates(storage), UnderWay(), None if admission is None else FairLine(admission)
        of = self.config.workers
        try:
            table = SharedTable(place.folder / LIMITS, of, place.number)
        except OSError as error:
            raise ConfigError(f"workers: no room for what they count together: {error.strerror}") from error
        line = None if admission is None else FairLine(admission.share(place.number, of))
        return Rates(storage, SharedRates(table)), SharedUnderWay(table), line

    def _recording(self) -> dict[str, RecordSettings]:
        """The tenants whose answers are recorded."""
        return {t.name: t.settings.records for t in self.access.tenants() if t.settings.records is not None}

    def _keep_records(self) -> None:
        self.records.settle(recording := self._recording())
        if recording and self.records not in self.sinks:
            self.sinks.append(self.records)

    def refresh_figures(self) -> None:
        """Brings up to date what metrics show of this moment."""
        metrics, now = self.observers.metrics, time.time()
        metrics.keys.set(sum(key.state(now) == "active" for key in self.access.keys()))
        metrics.records_lost(self.records.dropped)
        metrics.refresh(self.engines, self.observers.tracing.running)

    @property
    def failed(self) -> str | None:
        """What went wrong for good, once something has."""
        for name, engine in self.engines.items():
            if engine.dead:
                return f"the engine of {name} has died; this server is going down to be restarted"
        return None

    def resources(self, client: Client) -> Resources:
        """What a client's requests may use: its tenant's stores, and no others'."""
        shared, tenant = self.alignments.resources, client.tenant
        if tenant.name == EVERYONE or shared.stores is None:
            return shared
        whose, resources = self._of_tenants.get(tenant.name, (None, shared))
        if whose is not tenant:  # new, or with other settings
            stores = stores_of(shared.stores, tenant.name)
            resources = replace(shared, stores=stores, reads=frozenset(tenant.settings.reads))
            self._of_tenants[tenant.name] = tenant, resources
        return resources

    def plans(self, client: Client) -> dict[str, Plan]:
        """What a client may use by name alone: those whose stores are there for its tenant."""
        resources = self.resources(client)
        plans = self.alignments.plans()
        return {name: plan for name, plan in plans.items() if plan.finds_stores(resources)}

    @property
    def remotes(self) -> list[OpenAIEngine]:
        """The models that upstreams answer for, in the configuration's order."""
        return [remote for engine in self.engines.values() if (remote := engine.remote)]

    def target(self, request: Request, fields: Mapping[str, Any], *, writes: bool = True) -> Target:
        """Who answers a request with this body. Its own key and ids go with every call to an upstream.

        `writes`: whether a text is asked for, to which alignments and the floor's steps apply.
        """
        if failed := self.failed:
            raise EngineUnavailable(failed)
        scope = request.scope
        client = client_of(scope)
        floor = self.floors.of(client.tenant)
        named = next((value for name, value in scope["headers"] if name == b"x-alignment"), None)
        header = None if named is None else named.decode("latin-1")
        engine, plan, trace = target_of(
            fields, header, self.engines, self.alignments, client, floor, writes=writes
        )
        if plan.stores:
            self._require_stores(plan, client, f"{fields.get('model')} {header} {fields.get('alignment')}")
        engine = engine.bound(scope["headers"], fields)
        return Target(engine, plan, trace, client, facts_of(scope), floor)

    def _require_stores(self, plan: Plan, client: Client, said: str) -> None:
        """Raises NotFound. Of a store that the request has not `said` itself, no other tenant hears the name."""
        try:
            plan.require_stores(self.resources(client))
        except NotFound as error:
            missing = [store for _, store in plan.stores if not self.resources(client).readable.has(store)]
            if client.tenant.name == EVERYONE or all(store in said for store in missing):
                raise
            raise NotFound(
                f"alignment {plan.name!r} uses a store that is not there for this key",
                param="alignment",
                code="store_not_found",
            ) from error

    def floor(self, scope: Scope) -> Floor | None:
        """What holds for the client of a request; None: nothing."""
        return self.floors.of(client_of(scope).tenant)

    def run(self, target: Target, request: Request, fields: Mapping[str, Any] | None = None) -> Run:
        """The request's resources.

        `fields`: the request's body, from which engines tell the client's own parameters from ours.
        """

        headers = request.scope["headers"]  # and not the request, which holds all that holds this

        def find(model: str) -> Engine:
            if model not in self.engines:
                raise NotFound.among("model", model, self.engines, param="alignment", code="model_not_found")
            return self.engines[model].bound(headers, fields)

        trace = Trace() if target.facts is None else target.facts.trace
        trace.wish = target.trace or trace.wish
        return Run(
            target.engine,
            self.resources(target.client),
            trace,
            Ledger(account=account_of(request.scope)),
            deadline=self.deadline(request.scope),
            find=find,
        )

    def deadline(self, scope: Scope) -> float:
        """When a request's time is up, in the event loop's time: its turn may have been long in coming."""
        deadline: float | None = scope.get(_DEADLINE)
        if deadline is None:
            deadline = scope[_DEADLINE] = asyncio.get_running_loop().time() + self.config.request_timeout
        return deadline

    def fallback(
        self,
        failed: Target,
        error: HeedfulError,
        run: Run,
        request: Request,
        fields: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[Target, Run]]:
        """Who answers in place of an engine that is down, full or failing: the configuration's list, in order."""
        for name in self.config.fallbacks.get(failed.engine.model, ()):
            if failed.floor is not None and name not in failed.floor.models(self.engines):
                continue
            engine = self.engines[name].bound(request.scope["headers"], fields)
            target = replace(failed, engine=engine)
            try:
                target.plan.check(target.engine.capabilities, model=name)
            except MissingCapability as lacking:
                logger.warning(
                    "%s can't answer in place of %s: %s", name, failed.engine.model, one_line(str(lacking))
                )
                continue
            run.trace.note("fallback", model=name, instead_of=failed.engine.model, because=error.message)
            logger.warning(
                "%s answers in place of %s: %s", name, failed.engine.model, one_line(error.message)
            )
            yield target, replace(run, engine=engine)

    def models(self, client: Client) -> list[dict[str, Any]]:
        """Every name a client may put into `model`: each model, and each model at each alignment it can run."""
        entries = []
        floor, embedder = self.floors.of(client.tenant), self.resources(client).embedder
        plans, engines = self.plans(client), self.engines
        if floor is not None:
            plans, engines = floor.allowed.only("alignments", plans), floor.models(engines)
        for model, engine in engines.items():
            base = {"object": "model", "created": 0, "owned_by": "heedful"}
            about: dict[str, Any] = {
                "max_model_len": engine.context_length,
                "capabilities": engine.capabilities.names,
                **engine.about(),
            }
            if (price := self.config.prices.get(model)) is not None:
                about["prices"] = price.model_dump()
            entries.append({"id": model, **base, **about})
            for name, plan in plans.items():
                if plan.runs_on(engine.capabilities):
                    entries.append({"id": f"{model}@{name}", **base, "root": model, "alignment": plan.steps})
        embeds = embedder is not None and embedder.name not in self.engines
        if embedder is not None and embeds and (floor is None or floor.allowed.has("models", embedder.name)):
            facts = {"object": "model", "created": 0, "owned_by": "heedful", "capabilities": ["embeddings"]}
            entries.append({"id": embedder.name, **facts})
        return entries


def target_of(
    body: Mapping[str, Any],
    header: str | None,
    engines: Mapping[str, ServedModel],
    alignments: Alignments,
    client: Client = ANYBODY,
    floor: Floor | None = None,
    *,
    writes: bool = True,
) -> tuple[ServedModel, Plan, TraceWish | None]:
    """Model, plan, and what of the trace is wanted.

    The alignment: body field, then header, then `MODEL@ALIGNMENT`, then the server's default.
    """
    if floor is not None:
        engines = floor.models(engines)
    model = body.get("model")
    if model is None and len(engines) == 1:
        model = next(iter(engines))
    if not isinstance(model, str):
        raise RequestError("model: give the name of a model as a string", param="model")
    suffix = None
    if model not in engines and "@" in model:
        model, _, suffix = model.rpartition("@")
    if model not in engines:
        raise NotFound.among("model", model, engines, param="model", code="model_not_found")
    selection = Selection.from_body(body.get("alignment"))
    spec = next((s for s in (selection.spec, header, suffix) if s is not None), None)
    if client.role < Role.AUTHOR and looks_back(spec):
        raise not_allowed("as_of: what a store once held is for those who may read its history: authors")
    plan = floor.over(spec, client.role) if floor is not None and writes else alignments.resolve(spec)
    if selection.trace is not None and plan.shows == "off":
        raise RequestError(
            "alignment.trace: this server shows none",
            param="alignment.trace",
            status=403,
            type="permission_error",
            code="trace_not_allowed",
        )
    engine = engines[model]
    plan.check(engine.capabilities, model=model)
    return engine, plan, selection.trace
