"""What a client may do with the stores of its tenant. Those of other tenants do not exist for it."""

from __future__ import annotations

from heedful.server.access.client import Client, Role
from heedful.strategies import RequestError


def may_read(client: Client, store: str) -> bool:
    """Whether it may see what is in a store, and not only have answers that heed it."""
    return may_write(client, store)


def may_write(client: Client, store: str) -> bool:
    """Whether it may make a store, and add, replace and end items: an author those it is given."""
    if client.role is Role.AUTHOR:
        return not client.stores or store in client.stores
    return client.role >= Role.ADMIN


def may_destroy(client: Client, store: str) -> bool:
    """Whether it may drop a store and erase items of it: what can't be brought back."""
    return client.role >= Role.ADMIN


def forbidden(client: Client, store: str) -> RequestError:
    """What a client is told, whether or not there is such a store."""
    return RequestError(
        f"this key, of role {client.role.name.lower()}, may not do this with the store {store!r}",
        status=403,
        type="permission_error",
        code="store_forbidden",
    )
