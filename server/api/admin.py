"""/v1/alignment/admin: keys and tenants. What it changes holds from its answer on.

Keys and tenants of the configuration are listed and can't be changed here. The first key is made on the command line
or stands in the configuration: a server without keys makes none for whoever comes by.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import Meta
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from heedful.retrieval import InvalidItem
from heedful.retrieval.items import time_of
from heedful.server.access.access import Access
from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase, no_key, no_tenant
from heedful.server.access.key import AccessKey
from heedful.server.access.letting_in import client_of, finish
from heedful.server.access.roles import administers, not_allowed, require_operator
from heedful.server.access.settings import TENANT, LimitSettings, TenantSettings
from heedful.server.api.admin_bodies import (
    DeletedTenant,
    KeyBody,
    KeyList,
    KeyObject,
    NewKey,
    PurgedObject,
    RotateBody,
    TenantBody,
    TenantList,
    TenantObject,
)
from heedful.server.api.bodies import typed
from heedful.server.api.operation import Operation, Parameter
from heedful.server.config import ConfigError
from heedful.server.http import body_of, json_object, json_response
from heedful.server.leftovers import TenantData, name_in_use
from heedful.server.service import Service
from heedful.strategies import RequestError
from heedful.strategies.retrieve import retrieval_errors

_SECRET = {"cache-control": "no-store"}
_NAME = re.compile(TENANT)


def _access(request: Request) -> Access:
    service: Service = request.app.state.service
    return service.access


async def _fields(request: Request) -> dict[str, Any]:
    """The body; none is an empty one."""
    service: Service = request.app.state.service
    raw = await body_of(request, limit=service.config.max_body_bytes)
    return json_object(raw) if raw.strip() else {}


def _database(request: Request) -> KeyDatabase:
    """Where changes go. From here on nothing is left to do but one. Raises RequestError where there can be none."""
    access = _access(request)
    if not access.wanted:
        raise not_allowed(
            "this server has no keys yet: make the first on its machine, with heedful keys create --role admin"
        )
    if access.database is None:
        raise _no_folder()
    finish(request.scope)
    return access.database


def _no_folder() -> RequestError:
    return RequestError("this server has no folder for keys: set `stores`", status=409, code="no_database")


# -- keys


async def list_keys(request: Request) -> Response:
    """GET /v1/alignment/admin/keys?tenant="""
    client, tenant = client_of(request.scope), request.query_params.get("tenant")
    keys = [
        key.as_json(time.time())
        for key in _access(request).keys()
        if administers(client, key.tenant) and tenant in (None, key.tenant)
    ]
    return json_response({"object": "list", "data": keys})


async def show_key(request: Request) -> Response:
    """GET /v1/alignment/admin/keys/ID"""
    return json_response(_known(request).as_json(time.time()))


async def create_key(request: Request) -> Response:
    """POST /v1/alignment/admin/keys: its text is in the answer, and nowhere else."""
    client, access = client_of(request.scope), _access(request)
    body = typed(await _fields(request), KeyBody)
    tenant = client.tenant.name if body.tenant is None else body.tenant
    if not administers(client, tenant) or access.tenant(tenant) is None:
        raise no_tenant(tenant)  # one that is another's is as unknown as one that is not there
    limits = LimitSettings()
    if body.limits is not None:
        limits = LimitSettings(**{f: getattr(body.limits, f) for f in body.limits.__struct_fields__})
    try:
        expires = None if body.expires is None else time_of(body.expires, "expires")
    except InvalidItem as error:
        raise RequestError(str(error), param="expires") from error
    database = _database(request)
    key, text = await access.write(
        database.create_key,
        tenant,
        Role[body.role.upper()],
        name=body.name,
        expires=expires,
        stores=frozenset(body.stores),
        limits=limits,
        others=[each.name for each in access.tenants()],
    )
    return json_response({**key.as_json(time.time()), "key": text}, 201, _SECRET)


async def revoke_key(request: Request) -> Response:
    """DELETE /v1/alignment/admin/keys/ID: what runs under it ends with it."""
    key = _ours(_known(request))
    database = _database(request)
    revoked = await _access(request).write(database.revoke, key.id)
    return json_response(revoked.as_json(time.time()))


async def rotate_key(request: Request) -> Response:
    """POST /v1/alignment/admin/keys/ID/rotate: a new text; the old one works for `grace` more seconds."""
    body = typed(await _fields(request), RotateBody)
    key = _ours(_known(request))
    database = _database(request)
    rotated, text = await _access(request).write(database.rotate, key.id, body.grace)
    return json_response({**rotated.as_json(time.time()), "key": text}, 200, _SECRET)


def _known(request: Request) -> AccessKey:
    """The key of the path, where the client sees to it. Raises RequestError, the same for one of another tenant."""
    id, client = request.path_params["id"], client_of(request.scope)
    for key in _access(request).keys():
        if key.id == id and administers(client, key.tenant):
            return key
    raise no_key(id)


def _ours(key: AccessKey) -> AccessKey:
    if key.origin == "file":
        raise _of_the_file(f"the key {key.id}")
    return key


def _of_the_file(what: str) -> RequestError:
    return RequestError(
        f"{what} stands in the server's configuration: change it there", status=409, code="from_file"
    )


# -- tenants


async def list_tenants(request: Request) -> Response:
    """GET /v1/alignment/admin/tenants"""
    client = client_of(request.scope)
    known = [t.name for t in _access(request).tenants() if administers(client, t.name)]
    return json_response({"object": "list", "data": [_tenant(request, name) for name in known]})


async def show_tenant(request: Request) -> Response:
    """GET /v1/alignment/admin/tenants/NAME"""
    name = request.path_params["name"]
    if not administers(client_of(request.scope), name):
        raise no_tenant(name)
    return json_response(_tenant(request, name))


async def put_tenant(request: Request) -> Response:
    """PUT /v1/alignment/admin/tenants/NAME: makes it (201), or gives it these settings in place of its own."""
    require_operator(client_of(request.scope))
    access, name = _access(request), request.path_params["name"]
    fields = await _fields(request)
    typed(fields, TenantBody)
    if not _NAME.fullmatch(name):
        raise RequestError(
            "a tenant's name has lower-case letters, digits, - and _, 64 at most, and begins with no sign",
            param="name",
        )
    if access.origin(name) == "file":
        raise _of_the_file(f"the tenant {name}")
    settings = _settings(fields)
    try:
        access.check(name, settings)
    except ConfigError as error:
        raise RequestError(str(error), param="floor", code="invalid_floor") from error
    reuse, database = _flag(request, "reuse"), _database(request)
    if access.tenant(name) is None and not reuse:
        with retrieval_errors():
            left = await asyncio.to_thread(_data(request).in_the_way, name)
        if left:
            purge = f"DELETE {_TENANTS}/{name}?purge=true"
            raise name_in_use(name, left, f"{purge} deletes it for good, ?reuse=true here hands it over")
    new = await access.write(database.put_tenant, name, settings)
    return json_response(_tenant(request, name), 201 if new else 200)


async def delete_tenant(request: Request) -> Response:
    """DELETE /v1/alignment/admin/tenants/NAME: with its settings; its keys are revoked, what else there is stays.

    ?purge=true: nothing stays. That may be asked for a tenant that is gone, and again.
    """
    client, access, name = client_of(request.scope), _access(request), request.path_params["name"]
    require_operator(client)
    purge = _flag(request, "purge")
    if access.tenant(name) is None and purge:
        with retrieval_errors():
            found = await asyncio.to_thread(_data(request).of, name) if _NAME.fullmatch(name) else None
        # One whose settings can't be used stands in the database all the same.
        if not found and name not in (await asyncio.to_thread(_database(request).all)).tenants:
            raise no_tenant(name)
    if access.origin(name) == "file":
        raise _of_the_file(f"the tenant {name}")
    if purge and (held := [k.id for k in access.keys() if k.tenant == name and k.origin == "file"]):
        raise _of_the_file(f"the key {held[0]} of the tenant {name}")
    database = _database(request)
    if not purge:
        revoked = await access.write(database.delete_tenant, name)
        return json_response(DeletedTenant(name, True, revoked, None))
    revoked = await access.write(database.begin_purge, name, client.key_id)
    await access.ended(name)
    with retrieval_errors():
        gone = await access.write(_data(request).purge, name)
    service: Service = request.app.state.service
    service.limits.budgets.renew()  # whose journal had the tenant's name
    purged = PurgedObject(list(gone.stores), gone.records, gone.days, gone.keys)
    return json_response(DeletedTenant(name, True, revoked, purged))


def _data(request: Request) -> TenantData:
    service: Service = request.app.state.service
    database = service.access.database
    if database is None:
        raise _no_folder()
    service.limits.budgets.fold()  # for the file to tell all
    return TenantData(database, service.alignments.resources.stores, service.limits.budgets.file)


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false")
    if given not in ("true", "false"):
        raise RequestError(f"{name}: must be true or false", param=name)
    return given == "true"


def _settings(fields: Mapping[str, Any]) -> TenantSettings:
    try:
        return TenantSettings.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RequestError(f"{where}: {first['msg']}", param=where or None) from error


def _tenant(request: Request, name: str) -> dict[str, Any]:
    access = _access(request)
    if (tenant := access.tenant(name)) is None:
        raise no_tenant(name)
    now = time.time()
    return {
        "object": "tenant",
        "name": name,
        "settings": tenant.settings.model_dump(mode="json", exclude_defaults=True),
        "keys": sum(key.tenant == name and key.state(now) == "active" for key in access.keys()),
        "from": access.origin(name),
    }


_BASE = "/v1/alignment/admin"
_KEYS, _TENANTS = f"{_BASE}/keys", f"{_BASE}/tenants"
_Flag = Literal["true", "false"]
_PATH = {"name": Annotated[str, Meta(pattern=TENANT)]}
OPERATIONS = tuple(
    replace(each, path_kinds=_PATH if "{name}" in each.path else {})
    for each in (
        Operation(
            "GET",
            _KEYS,
            list_keys,
            "Keys, without their texts",
            role=Role.ADMIN,
            answer=KeyList,
            parameters=(Parameter("tenant", str),),
        ),
        Operation(
            "POST",
            _KEYS,
            create_key,
            "Makes a key",
            role=Role.ADMIN,
            body=KeyBody,
            answer=NewKey,
            also={201: "Made; its text is told this once"},
        ),
        Operation("GET", f"{_KEYS}/{{id}}", show_key, "One key", role=Role.ADMIN, answer=KeyObject),
        Operation("DELETE", f"{_KEYS}/{{id}}", revoke_key, "Revokes it", role=Role.ADMIN, answer=KeyObject),
        Operation(
            "POST",
            f"{_KEYS}/{{id}}/rotate",
            rotate_key,
            "A new text for it",
            role=Role.ADMIN,
            body=RotateBody,
            answer=NewKey,
        ),
        Operation("GET", _TENANTS, list_tenants, "Tenants", role=Role.ADMIN, answer=TenantList),
        Operation(
            "GET", f"{_TENANTS}/{{name}}", show_tenant, "One tenant", role=Role.ADMIN, answer=TenantObject
        ),
        Operation(
            "PUT",
            f"{_TENANTS}/{{name}}",
            put_tenant,
            "Makes it, or replaces its settings",
            role=Role.ADMIN,
            body=TenantBody,
            answer=TenantObject,
            also={201: "It is new"},
            parameters=(
                Parameter("reuse", _Flag, about="Whether it is to have what is left of one of that name"),
            ),
        ),
        Operation(
            "DELETE",
            f"{_TENANTS}/{{name}}",
            delete_tenant,
            "Deletes it and revokes its keys",
            role=Role.ADMIN,
            answer=DeletedTenant,
            parameters=(
                Parameter("purge", _Flag, about="Its stores, records, usage and keys too, for good"),
            ),
        ),
    )
)
