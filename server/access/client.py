"""Who asks: one key of one tenant, in one role."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from heedful.server.access.settings import LimitSettings, TenantSettings

EVERYONE = "default"
"""The tenant of those who need no key, and of `api_key_env`."""
SCOPE = "heedful.client"
"""Where a request's ASGI scope holds its Client."""


class Role(IntEnum):
    """Each may do what those before it may."""

    USER = 1
    """Has answers."""
    AUTHOR = 2
    """Writes the stores it is given."""
    ADMIN = 3
    """Of the tenant `default`: all stores, keys and tenants. Of any other: its own tenant's stores and keys; its
    tenant's settings (floor, limits, records) are the operator's."""


@dataclass(frozen=True, slots=True, eq=False)
class Tenant:
    """Those who share a floor, limits, stores and records. A change of its settings is a new object."""

    name: str
    settings: TenantSettings = field(default_factory=TenantSettings)


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """Who sent a request. `key_id` names the key in logs and records; it is no secret."""

    tenant: Tenant
    role: Role = Role.USER
    key_id: str | None = None
    stores: frozenset[str] = frozenset()
    """Those that an author may write; empty: all of the tenant's own."""
    limits: LimitSettings = field(default_factory=LimitSettings)
    """The key's own, beside its tenant's."""


ANYBODY = Client(Tenant(EVERYONE), Role.ADMIN)
"""Who asks a server that wants no keys."""
