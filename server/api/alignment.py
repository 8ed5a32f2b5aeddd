"""What the server itself has to say: alignments and their options, health, metrics, version."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.access.letting_in import client_of
from heedful.server.api.operation import Operation
from heedful.server.http import json_response
from heedful.server.service import Service
from heedful.strategies.registry import describe_options
from heedful.strategies.verifiers.registry import VERIFIERS

METRICS = "/metrics"
_TASKS = Gauge(
    "heedful_asyncio_tasks", "Tasks of the server's event loop: they grow with the requests under way."
)


class HealthObject(msgspec.Struct):
    status: str


class VersionObject(msgspec.Struct):
    version: str


async def alignment(request: Request) -> Response:
    """GET /v1/alignment: what can be asked for, with every strategy's options."""
    service: Service = request.app.state.service
    named = {name: plan.steps for name, plan in service.plans(client_of(request.scope)).items()}
    return json_response(
        {
            "default": service.alignments.default.name,
            "alignments": named,
            "strategies": describe_options(),
            "verifiers": VERIFIERS.describe(),
        }
    )


async def health(request: Request) -> Response:
    """GET /health: 200 while requests can be answered."""
    service: Service = request.app.state.service
    running = sum(engine.running for engine in service.engines.values())
    if failed := service.failed:
        return json_response({"status": "failed", "reason": failed, "running": running}, 503)
    return json_response({"status": "ok", "running": running})


async def metrics(request: Request) -> Response:
    """GET /metrics: Prometheus, vLLM's own figures included."""
    _TASKS.set(len(asyncio.all_tasks()))
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


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
        "GET", METRICS, metrics, "Prometheus metrics", answer=str, answer_media="text/plain", role=None
    ),
    Operation("GET", "/version", told_version, "The server's version", answer=VersionObject, role=None),
)
