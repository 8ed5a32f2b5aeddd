"""/v1/embeddings: an upstream's as they are, and those of the embedder that the stores use."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval import Embedder, StoreError
from heedful.server import passthrough
from heedful.server.engines.openai import OpenAIEngine
from heedful.server.exchange import Body, answer, read
from heedful.server.http import WhileConnected, json_response
from heedful.server.requests import Target, listed
from heedful.server.service import Service
from heedful.strategies import RequestError, RetrievalError, Run

_MOST = 2048  # texts in one request, as OpenAI has it


async def embeddings(request: Request) -> Response:
    """POST /v1/embeddings. An alignment has nothing to do with them."""
    service: Service = request.app.state.service
    body = await read(request)
    embedder = service.embedder
    if embedder is None or body.fields.get("model") != embedder.name or embedder.name in service.engines:
        return await answer(request, _forwarded, body)
    async with WhileConnected(request.receive), asyncio.timeout(service.config.request_timeout):
        return json_response(await _local(embedder, body.fields))


async def _forwarded(body: Body, target: Target, run: Run) -> Response:
    if not isinstance(run.engine, OpenAIEngine):
        raise RequestError(f"model {run.engine.model!r} does not embed", param="model")
    payload = passthrough.payload(run.engine, body.raw, body.fields)
    return await passthrough.forward(run.engine, "/embeddings", payload, run.deadline)


async def _local(embedder: Embedder, fields: dict[str, Any]) -> dict[str, Any]:
    """The embedder's unit vectors. Its tokens are not counted."""
    given = fields.get("input")
    texts = [given] if isinstance(given, str) else listed(given, "input")
    if not 0 < len(texts) <= _MOST:
        raise RequestError(f"input: give one text, or a list of 1 to {_MOST}", param="input")
    form = fields.get("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise RequestError("encoding_format: must be float or base64", param="encoding_format")
    try:
        vectors = await embedder.embed(texts)
    except StoreError as error:
        raise RetrievalError(str(error)) from error
    if fields.get("dimensions") not in (None, vectors.shape[1]):
        raise RequestError(f"dimensions: {embedder.name} has {vectors.shape[1]}", param="dimensions")
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": v.tolist() if form == "float" else b64encode(v.astype("<f4").tobytes()).decode(),
        }
        for i, v in enumerate(vectors)
    ]
    return {
        "object": "list",
        "data": data,
        "model": embedder.name,
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
