"""/v1/alignment/whoami: whose key a request brings, and what it may do."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import EVERYONE, Role
from heedful.server.access.letting_in import client_of
from heedful.server.access.roles import administers
from heedful.server.api.operation import Operation
from heedful.server.http import json_response
from heedful.server.service import Service


class WhoamiObject(msgspec.Struct):
    """`key` is the key's id; null where the server wants no keys. `stores`: those that the key may write; null where
    it names none. `operator`: whether it runs the server. `records`: "full" or "digests" of its answers are kept;
    null: nothing is."""

    tenant: str
    role: str
    key: str | None
    keys_wanted: bool
    operator: bool
    stores: list[str] | None
    records: str | None


async def whoami(request: Request) -> Response:
    """GET /v1/alignment/whoami"""
    service: Service = request.app.state.service
    client = client_of(request.scope)
    kept = client.tenant.settings.records
    return json_response(
        WhoamiObject(
            tenant=client.tenant.name,
            role=client.role.name.lower(),
            key=client.key_id,
            keys_wanted=service.access.anybody is None,
            operator=administers(client, EVERYONE),
            stores=sorted(client.stores) or None,
            records=None if kept is None else kept.texts,
        )
    )


OPERATIONS = (
    Operation(
        "GET",
        "/v1/alignment/whoami",
        whoami,
        "Whose key this is, and what it may do",
        answer=WhoamiObject,
        role=Role.USER,
    ),
)
