"""What all requests of one server share: engines, alignments, limits, and whether it is well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request

from heedful.retrieval import Embedder
from heedful.server.alignments import Alignments, Selection
from heedful.server.config import Config
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.log import logger, one_line
from heedful.strategies import (
    Engine,
    EngineUnavailable,
    HeedfulError,
    MissingCapability,
    NotFound,
    Plan,
    RequestError,
    Run,
)


@dataclass(frozen=True, slots=True)
class Target:
    """Who answers a request, and how."""

    engine: Engine
    plan: Plan
    trace: bool


@dataclass(slots=True)
class Service:
    """The server's state."""

    config: Config
    engines: Mapping[str, Engine]
    alignments: Alignments

    @property
    def failed(self) -> str | None:
        """What went wrong for good, once something has."""
        for name, engine in self.engines.items():
            if getattr(engine, "dead", False):
                return f"the engine of {name} has died; this server is going down to be restarted"
        return None

    @property
    def embedder(self) -> Embedder | None:
        """The embedder of the stores, which anybody may use."""
        stores = self.alignments.resources.stores
        return stores.embedder if stores is not None else None

    def target(self, body: Mapping[str, Any], header: str | None) -> Target:
        if failed := self.failed:
            raise EngineUnavailable(failed)
        return target_of(body, header, self.engines, self.alignments)

    def run(self, target: Target, request: Request, fields: Mapping[str, Any] | None = None) -> Run:
        """The request's resources. Its own key and ids go with every call to an upstream.

        `fields`: the request's body, from which engines tell the client's own parameters from ours.
        """
        deadline = asyncio.get_running_loop().time() + self.config.request_timeout

        def find(model: str) -> Engine:
            if model not in self.engines:
                raise NotFound.among("model", model, self.engines, param="alignment", code="model_not_found")
            return _bound(self.engines[model], request, fields)

        engine = _bound(target.engine, request, fields)
        return Run(engine, self.alignments.resources, deadline=deadline, find=find)

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
            target = replace(failed, engine=self.engines[name])
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
            yield target, replace(run, engine=_bound(target.engine, request, fields))

    def models(self) -> list[dict[str, Any]]:
        """Every name a client may put into `model`: each model, and each model at each alignment it can run."""
        entries = []
        plans = self.alignments.plans()
        for model, engine in self.engines.items():
            base = {"object": "model", "created": 0, "owned_by": "heedful"}
            about: dict[str, Any] = {
                "max_model_len": engine.context_length,
                "capabilities": engine.capabilities.names,
            }
            if isinstance(engine, OpenAIEngine):
                about |= {"upstream": engine.upstream.host, "capabilities_known_by": engine.note}
            entries.append({"id": model, **base, **about})
            for name, plan in plans.items():
                if plan.runs_on(engine.capabilities):
                    entries.append({"id": f"{model}@{name}", **base, "root": model, "alignment": plan.steps})
        if self.embedder is not None and self.embedder.name not in self.engines:
            facts = {"object": "model", "created": 0, "owned_by": "heedful", "capabilities": ["embeddings"]}
            entries.append({"id": self.embedder.name, **facts})
        return entries


def _bound(engine: Engine, request: Request, fields: Mapping[str, Any] | None) -> Engine:
    return engine.bound(request.scope["headers"], fields) if isinstance(engine, OpenAIEngine) else engine


def target_of(
    body: Mapping[str, Any], header: str | None, engines: Mapping[str, Engine], alignments: Alignments
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
