"""What a Python proxy can do at best: Starlette and aiohttp, forwarding bytes and nothing else.

Run: python floor.py PORT UPSTREAM_URL [WORKERS]
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


def app(upstream: str) -> Starlette:
    @asynccontextmanager
    async def session(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as opened:
            app.state.session = opened
            yield

    async def forward(request: Request) -> Response:
        body = await request.body()
        headers = {"content-type": "application/json"}
        response = await request.app.state.session.post(
            f"{upstream}{request.url.path.removeprefix('/v1')}", data=body, headers=headers
        )
        if response.content_type != "text/event-stream":
            return Response(await response.read(), response.status, media_type="application/json")
        return StreamingResponse(response.content.iter_any(), media_type="text/event-stream")

    async def health(request: Request) -> Response:
        return Response("ok")

    routes = [Route("/v1/chat/completions", forward, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=session)


_UPSTREAM = "FLOOR_UPSTREAM"  # where uvicorn's workers find it


def of_environment() -> Starlette:
    """For several workers, each of which makes its own."""
    return app(os.environ[_UPSTREAM])


if __name__ == "__main__":
    os.environ[_UPSTREAM] = sys.argv[2]
    uvicorn.run(
        "heedful.benchmarks.scripts.floor:of_environment",
        factory=True,
        workers=int(sys.argv[3]) if len(sys.argv) > 3 else 1,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
    )
