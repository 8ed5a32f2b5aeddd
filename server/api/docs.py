"""/openapi.json, and /docs: the API in a browser, by Swagger UI from its wheel, with relative addresses only.

So it works under a path and behind TLS, and no `Host` header gets into it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from heedful.server.http import json_response


def add_to(app: FastAPI, document: Callable[[], dict[str, Any]]) -> None:
    async def openapi(request: Request) -> Response:
        """GET /openapi.json"""
        return json_response(document())

    app.add_route("/openapi.json", openapi, methods=["GET"])
    app.add_route("/docs", _page, methods=["GET"])
    app.mount("/docs/", StaticFiles(directory=str(files("fastapi_swagger") / "resources")))


async def _page(request: Request) -> Response:
    """GET /docs"""
    return _swagger()


@cache
def _swagger() -> Response:
    """Under a policy that lets in nothing from elsewhere, and of scripts in the page its own alone."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="heedful",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon-32x32.png",
    )
    scripts = re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)
    own = " ".join(f"'sha256-{b64encode(sha256(script).digest()).decode()}'" for script in scripts)
    page.headers["content-security-policy"] = (
        f"default-src 'none'; script-src 'self' {own}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    page.headers["x-content-type-options"] = "nosniff"
    return page
