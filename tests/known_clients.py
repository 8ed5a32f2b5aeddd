"""Clients that a server knows by keys of a test's choice, under ids of its choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import sha256

from heedful.server.access.access import Access
from heedful.server.access.client import Client
from heedful.server.access.credential import Credential
from heedful.server.access.key import AccessKey


def let_in(access: Access, clients: Mapping[str, Client]) -> None:
    """Makes a server want keys, and know these: clients by key."""
    for text, client in clients.items():
        digest, tenant = sha256(text.encode()).digest(), client.tenant
        key = AccessKey(client.key_id or text, tenant.name, client.role, digest, limits=client.limits)
        access._credentials[digest[:8]] = Credential(digest, key, client, math.inf)
        access._tenants[tenant.name] = tenant
        access.anybody = None
