"""What the server itself has to say: alignments and their options, health, metrics, version."""

from __future__ import annotations

from importlib.metadata import version

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.access.letting_in import client_of
from heedful.server.api.operation import Operation
from heedful.server.http import json_response
from heedful.server.observe.readiness import readiness
from heedful.server.service import Service
from heedful.strategies.registry import describe_options
from heedful.strategies.verifiers.registry import VERIFIERS

METRICS = "/metrics"


class HealthObject(msgspec.Struct):
    status: str


class VersionObject(msgspec.Struct):
    version: str


async def alignment(request: Request) -> Response:
    """GET /v1/alignment: what can be asked for, with every strategy's options."""
    service: Service = request.app.state.service
    named = {name: plan.steps for name, plan in service.plans(client_of(request.scope)).items()}
    strategies, verifiers = describe_options(), VERIFIERS.describe()
    if (floor := service.floor(request.scope)) is not None:
        only = floor.allowed.only
        named, strategies = only("alignments", named), only("alignments", strategies)
        verifiers = only("verifiers", verifiers)
    return json_response(
        {
            "default": service.alignments.default.name,
            "alignments": named,
            "strategies": strategies,
            "verifiers": verifiers,
        }
    )


async def health(request: Request) -> Response:
    """GET /health: 200 while requests can be answered."""
    service: Service = request.app.state.service
    running = sum(engine.running for engine in service.engines.values())
    if failed := service.failed:
        return json_response({"status": "failed", "reason": failed, "running": running}, 503)
    return json_response({"status": "ok", "running": running})


async def live(request: Request) -> Response:
    """GET /health/live: 200 while this process serves; else start it again."""
    service: Service = request.app.state.service
    if failed := service.failed:
        return json_response({"status": "failed", "reason": failed}, 503)
    return json_response({"status": "ok"})


async def ready(request: Request) -> Response:
    """GET /health/ready: 200 while requests should be sent here."""
    service: Service = request.app.state.service
    reasons, upstreams = await readiness(service)
    answer = {"status": "unready" if reasons else "ok", "reasons": reasons, "upstreams": upstreams}
    return json_response(answer, 503 if reasons else 200)


async def metrics(request: Request) -> Response:
    """GET /metrics: Prometheus, vLLM's own figures included; of all workers, whichever is asked."""
    service: Service = request.app.state.service
    service.refresh_figures()
    return Response(service.observers.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def told_version(request: Request) -> Response:
    """GET /version"""
    return json_response({"version": version("heedful")})


OPERATIONS = (
    Operation(
        "GET", "/v1/alignment", alignment, "Alignments and strategies with their options", role=Role.USER
    ),
    Operation(
        "GET",
        "/health",
        health,
        "Whether requests can be answered",
        answer=HealthObject,
        also={503: "An engine has failed"},
        role=None,
    ),
    Operation(
        "GET",
        "/health/live",
        live,
        "Whether the process serves",
        answer=HealthObject,
        also={503: "An engine has failed"},
        role=None,
    ),
    Operation(
        "GET",
        "/health/ready",
        ready,
        "Whether requests should be sent here",
        answer=HealthObject,
        also={503: "No model can answer, or the stores can't be read"},
        role=None,
    ),
    Operation(
        "GET", METRICS, metrics, "Prometheus metrics", answer=str, answer_media="text/plain", role=None
    ),
    Operation("GET", "/version", told_version, "The server's version", answer=VersionObject, role=None),
)
