"""/v1/moderations: an upstream's where one has it, else our verifiers in OpenAI's shape."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import uuid4
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.allowed import OwnSteps
from heedful.server.access.client import Role
from heedful.server.access.concealing import concealing
from heedful.server.access.floor import Floor
from heedful.server.access.letting_in import client_of
from heedful.server.api import passthrough
from heedful.server.api.bodies import handled, typed
from heedful.server.api.operation import Operation
from heedful.server.api.other_paths import UNALIGNED, named_model, refuse_alignment, upstreams_of
from heedful.server.engines.upstream.client import Upstream
from heedful.server.engines.upstream.engine import OpenAIEngine
from heedful.server.exchange import Body, read
from heedful.server.http import WhileConnected, json_response
from heedful.server.observe.facts import facts_of
from heedful.server.service import Service, Target
from heedful.strategies import (
    ChatRequest,
    HeedfulError,
    MissingCapability,
    NotFound,
    RequestError,
    Resources,
    Run,
)
from heedful.strategies.shown import without_texts
from heedful.strategies.tasks import SOME, together
from heedful.strategies.types import Context
from heedful.strategies.verifiers.base import Verdict, Verifier
from heedful.strategies.verifiers.panel import Panel, VerifierSpec
from heedful.strategies.verifiers.registry import VERIFIERS
from heedful.strategies.verifiers.toxicity import Toxicity

PATH = "moderations"
_DEFAULT = "toxicity"
_MOST = 2048  # texts of one request
_TIMEOUT = 30.0  # seconds for one verdict
_FORGET = 300.0  # seconds after which an upstream that had no moderations is asked again
_LACKING = frozenset({404, 405, 501})
# They judge an answer by what was looked up for it, and here nothing was.
_NOT_ALONE = frozenset({"norms"})
_CODES = frozenset({"id", "verdict", "categories", "found"})
# Verifiers judge an answer; a text that answers nothing is given to them as the answer to this.
_QUESTION = {"role": "user", "content": "Write a text."}
# OpenAI's names for what the bundled classifier tells apart; it knows nothing of the other categories.
_OPENAIS = {
    "insult": "harassment",
    "threat": "harassment/threatening",
    "identity_attack": "hate",
    "sexually_explicit": "sexual",
}


class ModerationsBody(msgspec.Struct, kw_only=True):
    """OpenAI's moderations. `model`, or `verifiers` with options, choose who judges."""

    input: str | Annotated[list[str | dict[str, Any]], Meta(min_length=1, max_length=_MOST)]
    model: str | None = None
    verifiers: Annotated[list[str | dict[str, Any]], Meta(min_length=1)] | None = None


class Moderated(msgspec.Struct):
    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]


class Moderations(msgspec.Struct):
    id: str
    model: str
    results: list[Moderated]


async def moderations(request: Request) -> Response:
    """POST /v1/moderations"""
    service: Service = request.app.state.service
    body = await read(request)
    if (floor := service.floor(request.scope)) is not None:
        fields = floor.fields(body.fields, handled(ModerationsBody))
        body = Body(msgspec.json.encode(fields), fields)
    fields = body.fields
    refuse_alignment(request.headers.get("x-alignment"), fields)
    model = fields.get("model")
    if model is not None and not isinstance(model, str):
        raise RequestError("model: give the name of a verifier or a model as a string", param="model")
    deadline = service.deadline(request.scope)
    if (facts := facts_of(request.scope)) is not None:
        facts.fields = fields
    async with WhileConnected(request.receive), asyncio.timeout_at(deadline):
        if "verifiers" not in fields and not _is_ours(service, model):
            for engine, theirs in _candidates(service, model, floor):
                try:
                    return await _forwarded(engine, theirs, body, request, deadline)
                except HeedfulError as error:
                    if error.status not in _LACKING or model is not None:
                        raise
                    _lacking[engine.upstream] = time.monotonic()
        response = json_response(await _judged(service, fields, request, floor))
    response.headers[UNALIGNED] = "none"
    return response


# -- an upstream's

_lacking: WeakKeyDictionary[Upstream, float] = WeakKeyDictionary()
"""Upstreams that have none, and when they said so."""


def _is_ours(service: Service, model: str | None) -> bool:
    if model is None or model in service.engines:
        return False
    known = {*service.alignments.resources.verifiers, *VERIFIERS.names()}
    return all(name.strip() in known for name in model.split("+"))


def _candidates(
    service: Service, model: str | None, floor: Floor | None
) -> list[tuple[OpenAIEngine, str | None]]:
    """Who is asked, in order, and for which model of theirs. Raises RequestError for a model that nobody has."""
    offering = upstreams_of(service, PATH)
    engines = service.remotes
    if floor is not None and floor.allowed.bounds_models:
        if model is None:
            return []  # whichever they take by themselves may be one that the client may not choose
        floor.allowed.require("models", model.removesuffix("@direct"), "model")
    if model is not None:
        try:
            upstream, theirs = named_model(service, offering, model)
        except NotFound as error:
            ours = ", ".join(sorted({*service.alignments.resources.verifiers, *VERIFIERS.names()}))
            raise NotFound(f"{error}; verifiers: {ours}", param="model", code="model_not_found") from error
        own = next(e for e in engines if e.upstream is upstream)
        named = (e for e in engines if e.upstream is upstream and e.upstream_model == theirs)
        return [(next(named, own), theirs)]
    now = time.monotonic()
    asked = [u for u in offering if now - _lacking.get(u, -_FORGET) >= _FORGET]
    return [(next(e for e in engines if e.upstream is upstream), None) for upstream in asked]


async def _forwarded(
    engine: OpenAIEngine, theirs: str | None, body: Body, request: Request, deadline: float
) -> Response:
    bound = engine.bound(request.scope["headers"], body.fields)
    payload = passthrough.payload(theirs, body.raw, body.fields)
    facts = facts_of(request.scope)
    response = await passthrough.forward(bound, f"/{PATH}", payload, deadline, facts)
    response.raw_headers.append((UNALIGNED.encode(), b"none"))
    return response


# -- ours


async def _judged(
    service: Service, fields: Mapping[str, Any], request: Request, floor: Floor | None
) -> dict[str, Any]:
    asked = typed(fields, ModerationsBody)
    texts = _texts(asked.input)
    client = client_of(request.scope)
    panel = _panel(service.resources(client), asked, floor)
    engines = service.engines if floor is None else floor.models(service.engines)
    engine = next((e for e in engines.values() if not panel.needs & ~e.capabilities), None)
    if engine is None:
        raise MissingCapability(
            f"model: no model of this server has what these verifiers need ({', '.join(panel.needs.names)})",
            param="model",
        )
    plan = service.alignments.resolve("direct") if floor is None else floor.over(None, client.role)
    target = Target(engine.bound(request.scope["headers"]), plan, None, client)
    run = service.run(target, request).stage("moderations")
    if (facts := facts_of(request.scope)) is not None:
        facts.run = run
    with concealing(plan, run):
        results = await together((_result(panel, text, engine.model, run) for text in texts), SOME)
    if plan.on_the_floor:  # what a judge writes beside its verdict nobody has judged
        results = [result | {"verdicts": without_texts(result["verdicts"], _CODES)} for result in results]
    names = "+".join(name for name, _ in panel.members)
    return {"id": f"modr-{uuid4().hex}", "model": names, "results": results}


def _panel(resources: Resources, asked: ModerationsBody, floor: Floor | None) -> Panel:
    specs: Sequence[VerifierSpec]
    if asked.verifiers is not None:
        if asked.model is not None:
            raise RequestError("verifiers: give either `model` or `verifiers`", param="verifiers")
        specs, param = asked.verifiers, "verifiers"
    else:
        specs, param = [name.strip() for name in (asked.model or _DEFAULT).split("+")], "model"
    if floor is not None:
        choice = OwnSteps(floor.allowed)
        for spec in specs:
            choice.verifier(spec, param)
    panel = Panel.of(specs, resources, on_error="fail", timeout=_TIMEOUT, param=param)
    for name, _ in panel.members:
        if name.partition("#")[0] in _NOT_ALONE:
            raise RequestError(
                f"{param}: {name!r} judges by norms that were looked up for an answer", param=param
            )
    return panel


def _texts(given: str | list[str | dict[str, Any]]) -> list[str]:
    """One text of a string or of a list of parts, several of a list of strings."""
    if isinstance(given, str):
        return [given]
    texts = [each for each in given if isinstance(each, str)]
    parts = [each for each in given if not isinstance(each, str)]
    if not parts:
        return texts
    if not texts:
        for i, part in enumerate(parts):
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise RequestError(f"input.{i}: the verifiers read text only", param=f"input.{i}")
        return ["\n".join(part["text"] for part in parts)]
    raise RequestError(f"input: give a text, 1 to {_MOST} texts, or parts of type text", param="input")


async def _result(panel: Panel, text: str, model: str, run: Run) -> dict[str, Any]:
    context = Context.of(ChatRequest(model, (_QUESTION,)))
    judgement = await panel.judge(context, text, run)
    scores: dict[str, float] = {}
    categories: dict[str, bool] = {}
    for (name, verdict), (_, verifier) in zip(judgement.verdicts, panel.members, strict=True):
        scores[name], categories[name] = round(1 - verdict.score, 6), not verdict.passed
        for category, score, at_fault in _finer(verifier, text, verdict):
            scores[f"{name}/{category}"], categories[f"{name}/{category}"] = score, at_fault
            if (openais := _OPENAIS.get(category)) is not None:
                scores[openais] = max(score, scores.get(openais, 0.0))
                categories[openais] = at_fault or categories.get(openais, False)
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in categories},
        "verdicts": judgement.facts,
    }


def _finer(verifier: Verifier, text: str, verdict: Verdict) -> list[tuple[str, float, bool]]:
    """What a verifier tells beyond its verdict: the classifier's attributes, a guard model's categories."""
    if isinstance(verifier, Toxicity):
        _, *finer = verifier.attributes(text)
        return [(name, round(score, 6), score >= verifier.threshold) for name, score in finer]
    codes = verdict.facts.get("categories")
    score = round(1 - verdict.score, 6)
    return [(str(c), score, not verdict.passed) for c in codes] if isinstance(codes, list) else []


OPERATIONS = (
    Operation(
        "POST",
        "/v1/moderations",
        moderations,
        "Verdicts of verifiers on texts",
        body=ModerationsBody,
        answer=Moderations,
        role=Role.USER,
    ),
)
