"""All keys of one server, and the tenants that they belong to."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256

from heedful.server.access.client import ANYBODY, EVERYONE, Client, Role, Tenant
from heedful.server.access.settings import TenantSettings

_HEAD = 8  # bytes of a digest by which keys are looked up; the rest is compared in constant time


class Access:
    """Who is behind a key. Keys are known by their SHA-256 alone: long random texts need no slower hash."""

    def __init__(self, tenants: Mapping[str, TenantSettings], admin_key: str | None = None) -> None:
        self._tenants = {name: Tenant(name, settings) for name, settings in tenants.items()}
        self._tenants.setdefault(EVERYONE, Tenant(EVERYONE))
        self._anybody = Client(self._tenants[EVERYONE], ANYBODY.role)
        self._keys: dict[bytes, tuple[bytes, Client]] = {}
        if admin_key is not None:
            self._add(admin_key.encode(), Client(self._tenants[EVERYONE], Role.ADMIN, "api_key_env"))

    @property
    def anybody(self) -> Client | None:
        """Who asks where no keys are wanted; None where they are."""
        return None if self._keys else self._anybody

    @property
    def tenants(self) -> Iterable[Tenant]:
        """All that there are."""
        return self._tenants.values()

    def named(self, key_id: str) -> Client | None:
        """Whose key has this id."""
        return next((client for _, client in self._keys.values() if client.key_id == key_id), None)

    def find(self, keys: Iterable[bytes]) -> Client | None:
        """Who brings one of these keys."""
        found = None
        for key in keys:
            digest = sha256(key).digest()
            known, client = self._keys.get(digest[:_HEAD], (b"", None))
            if hmac.compare_digest(known, digest):
                found = client
        return found

    def _add(self, key: bytes, client: Client) -> None:
        digest = sha256(key).digest()
        self._keys[digest[:_HEAD]] = digest, client
