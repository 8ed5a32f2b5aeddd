"""What each role may do: the one that an operation asks for, and whose affairs an admin sees to."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import EVERYONE, Client, Role
from heedful.server.access.letting_in import client_of
from heedful.server.http import Handler
from heedful.strategies import RequestError


def allowed_to(role: Role | None, handler: Handler) -> Handler:
    """A handler that refuses clients of a lesser role. The door lets in no client that has none."""
    if role is None or role is Role.USER:
        return handler

    async def answer(request: Request) -> Response:
        require(client_of(request.scope), role)
        return await handler(request)

    answer.__doc__ = handler.__doc__
    return answer


def require(client: Client, role: Role) -> None:
    """Raises RequestError for a lesser role."""
    if client.role < role:
        raise not_allowed(f"this needs a key of the role {role.name.lower()}")


def administers(client: Client, tenant: str) -> bool:
    """Whether a client sees to the keys of a tenant: admins to their own tenant's, those of `default` to all."""
    return client.role is Role.ADMIN and client.tenant.name in (EVERYONE, tenant)


def require_operator(client: Client) -> None:
    """Raises RequestError for anybody but an admin of the tenant `default`, who runs the server."""
    if not administers(client, EVERYONE):
        raise not_allowed(f"this needs an admin's key of the tenant {EVERYONE!r}")


def operators_only(handler: Handler) -> Handler:
    """A handler for those who run the server."""

    async def answer(request: Request) -> Response:
        require_operator(client_of(request.scope))
        return await handler(request)

    answer.__doc__ = handler.__doc__
    return answer


def not_allowed(message: str) -> RequestError:
    return RequestError(message, status=403, type="permission_error", code="not_allowed")
