"""/v1/models, for OpenAI's clients and for Anthropic's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.access.letting_in import client_of
from heedful.server.api.operation import Operation
from heedful.server.http import json_response
from heedful.server.service import Service
from heedful.server.shapes import speaks_anthropic
from heedful.strategies import NotFound, RequestError

_MOST = 1000  # models on one page, as Anthropic has it


class ModelObject(msgspec.Struct):
    id: str


class Models(msgspec.Struct):
    data: list[ModelObject]


async def models(request: Request) -> Response:
    """GET /v1/models"""
    service: Service = request.app.state.service
    known = service.models(client_of(request.scope))
    if speaks_anthropic(request.scope):
        return json_response(_page([_anthropic(e) for e in known], request.query_params))
    return json_response({"object": "list", "data": known})


async def model(request: Request) -> Response:
    """GET /v1/models/NAME"""
    service: Service = request.app.state.service
    name = request.path_params["model"]
    known = {entry["id"]: entry for entry in service.models(client_of(request.scope))}
    if name not in known:
        raise NotFound.among("model", name, known, param="model", code="model_not_found")
    return json_response(_anthropic(known[name]) if speaks_anthropic(request.scope) else known[name])


def _anthropic(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A model as Anthropic describes one. When it was made is not known: the epoch, as their API has it then."""
    kept = {k: v for k, v in entry.items() if k in ("root", "alignment")}
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": "1970-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": entry.get("max_model_len"),
        **kept,
    }


def _page(entries: list[dict[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The part of the list that was asked for; all of it where no limit is given. Raises RequestError."""
    ids = [entry["id"] for entry in entries]
    first, end = 0, len(entries)
    for field in ("after_id", "before_id"):
        if (id := query.get(field)) is not None and id not in ids:
            raise RequestError(f"{field}: no model {id!r} in the list", param=field)
    if "after_id" in query:
        first = ids.index(query["after_id"]) + 1
    if "before_id" in query:
        end = ids.index(query["before_id"])
    found = entries[first:end]
    limit = _limit(query.get("limit"))
    page = found
    if limit is not None:
        # Before an id the page is what comes right before it.
        page = found[-limit:] if "before_id" in query and "after_id" not in query else found[:limit]
    return {
        "data": page,
        "has_more": len(page) < len(found),
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def _limit(given: str | None) -> int | None:
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 9 and 1 <= int(given) <= _MOST):
        raise RequestError(f"limit: must be a whole number from 1 to {_MOST}", param="limit")
    return int(given)


OPERATIONS = (
    Operation(
        "GET",
        "/v1/models",
        models,
        "Models, each at every alignment",
        answer=Models,
        dialect="asker",
        role=Role.USER,
    ),
    Operation(
        "GET",
        "/v1/models/{model:path}",
        model,
        "One model",
        answer=ModelObject,
        dialect="asker",
        role=Role.USER,
    ),
)
