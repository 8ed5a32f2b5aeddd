"""/v1/embeddings: an upstream's, as they are. An alignment has nothing to do with them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from heedful.server import passthrough
from heedful.server.engines.openai import OpenAIEngine
from heedful.server.exchange import Body, answer
from heedful.server.requests import Target
from heedful.strategies import RequestError, Run


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings"""
    return await answer(request, _embeddings)


async def _embeddings(body: Body, target: Target, run: Run) -> Response:
    if not isinstance(run.engine, OpenAIEngine):
        raise RequestError(f"model {run.engine.model!r} does not embed", param="model")
    payload = passthrough.payload(run.engine, body.raw, body.fields)
    return await passthrough.forward(run.engine, "/embeddings", payload, run.deadline)
