"""What all requests of one server share: engines, alignments, limits, and whether it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.types import Scope

from heedful.retrieval import Embedder
from heedful.server.access.access import Access
from heedful.server.access.client import ANYBODY, Client
from heedful.server.access.letting_in import client_of
from heedful.server.alignments import Alignments, Selection
from heedful.server.config import Config
from heedful.server.engines.served import ServedModel
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.limits.account import ServerLimits, account_of
from heedful.server.limits.budgets import Budgets
from heedful.server.limits.line import FairLine
from heedful.server.limits.windows import Rates
from heedful.server.log import logger, one_line
from heedful.server.observe.facts import Facts, Sink, facts_of
from heedful.server.stores import usage_file
from heedful.strategies import (
    Engine,
    EngineUnavailable,
    HeedfulError,
    Ledger,
    MissingCapability,
    NotFound,
    Plan,
    RequestError,
    Run,
)

_DEADLINE = "heedful.deadline"  # where a request's ASGI scope holds it


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers a request, and how."""

    engine: ServedModel
    """As it serves this one request: bound to the client's own key and ids."""
    plan: Plan
    trace: bool
    client: Client = ANYBODY
    facts: Facts | None = None
    """What is gathered of the request, where somebody is told."""


@dataclass(slots=True)
class Service:
    """The server's state."""

    config: Config
    engines: Mapping[str, ServedModel]
    alignments: Alignments
    access: Access = field(init=False)
    limits: ServerLimits = field(init=False)
    sinks: list[Sink] = field(default_factory=list)
    """Who is told of each request at its end."""

    def __post_init__(self) -> None:
        self.access = Access(self.config.tenants, self.config.api_key())
        line = None if self.config.admission is None else FairLine(self.config.admission)
        self.limits = ServerLimits(Rates(self.config.limits_storage), Budgets(usage_file(self.config)), line)

    @property
    def failed(self) -> str | None:
        """What went wrong for good, once something has."""
        for name, engine in self.engines.items():
            if engine.dead:
                return f"the engine of {name} has died; this server is going down to be restarted"
        return None

    @property
    def embedder(self) -> Embedder | None:
        """The embedder of the stores, which anybody may use."""
        stores = self.alignments.resources.stores
        return stores.embedder if stores is not None else None

    @property
    def remotes(self) -> list[OpenAIEngine]:
        """The models that upstreams answer for, in the configuration's order."""
        return [remote for engine in self.engines.values() if (remote := engine.remote)]

    def target(self, request: Request, fields: Mapping[str, Any]) -> Target:
        """Who answers a request with this body. Its own key and ids go with every call to an upstream."""
        if failed := self.failed:
            raise EngineUnavailable(failed)
        target = target_of(fields, request.headers.get("x-alignment"), self.engines, self.alignments)
        engine = target.engine.bound(request.scope["headers"], fields)
        return replace(target, engine=engine, client=client_of(request.scope), facts=facts_of(request.scope))

    def run(self, target: Target, request: Request, fields: Mapping[str, Any] | None = None) -> Run:
        """The request's resources.

        `fields`: the request's body, from which engines tell the client's own parameters from ours.
        """

        def find(model: str) -> Engine:
            if model not in self.engines:
                raise NotFound.among("model", model, self.engines, param="alignment", code="model_not_found")
            return self.engines[model].bound(request.scope["headers"], fields)

        return Run(
            target.engine,
            self.alignments.resources,
            ledger=Ledger(account=account_of(request.scope)),
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

    def models(self) -> list[dict[str, Any]]:
        """Every name a client may put into `model`: each model, and each model at each alignment it can run."""
        entries = []
        plans = self.alignments.plans()
        for model, engine in self.engines.items():
            base = {"object": "model", "created": 0, "owned_by": "heedful"}
            about: dict[str, Any] = {
                "max_model_len": engine.context_length,
                "capabilities": engine.capabilities.names,
                **engine.about(),
            }
            entries.append({"id": model, **base, **about})
            for name, plan in plans.items():
                if plan.runs_on(engine.capabilities):
                    entries.append({"id": f"{model}@{name}", **base, "root": model, "alignment": plan.steps})
        if self.embedder is not None and self.embedder.name not in self.engines:
            facts = {"object": "model", "created": 0, "owned_by": "heedful", "capabilities": ["embeddings"]}
            entries.append({"id": self.embedder.name, **facts})
        return entries


def target_of(
    body: Mapping[str, Any], header: str | None, engines: Mapping[str, ServedModel], alignments: Alignments
) -> Target:
    """Model and alignment: body field, then header, then `MODEL@ALIGNMENT`, then the server's default."""
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
    plan = alignments.resolve(spec)
    engine = engines[model]
    plan.check(engine.capabilities, model=model)
    return Target(engine, plan, selection.trace)
