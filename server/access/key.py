"""A key as it is kept: never its text, which is shown once and known by its digest from then on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from heedful.retrieval.items import iso
from heedful.server.access.client import Role
from heedful.server.access.settings import LimitSettings


@dataclass(frozen=True, slots=True)
class AccessKey:
    """Times are seconds since 1970."""

    id: str
    """Names it in logs, records and commands; no secret."""
    tenant: str
    role: Role
    digest: bytes
    name: str = ""
    prefix: str = ""
    """Unknown of a key that stands in the configuration as a digest."""
    created: float | None = None
    expires: float | None = None
    revoked: float | None = None
    stores: frozenset[str] = frozenset()
    limits: LimitSettings = LimitSettings()
    old_digest: bytes | None = None
    """Of its text before it was rotated, which works until `old_until`."""
    old_until: float = 0.0
    origin: Literal["file", "database"] = "database"

    def secrets(self) -> Iterator[tuple[bytes, float]]:
        """The digests by which it is known, each with the time at which that ends."""
        if self.revoked is None:
            end = math.inf if self.expires is None else self.expires
            yield self.digest, end
            if self.old_digest is not None:
                yield self.old_digest, min(end, self.old_until)

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def as_json(self, now: float) -> dict[str, Any]:
        """For people and programs, without a digest."""
        times = {"created": self.created, "expires": self.expires, "revoked": self.revoked}
        if self.old_digest is not None and self.old_until > now:
            times["old_until"] = self.old_until
        return {
            "object": "key",
            "id": self.id,
            "tenant": self.tenant,
            "role": self.role.name.lower(),
            "name": self.name,
            "prefix": self.prefix,
            "state": self.state(now),
            **{name: None if at is None else iso(at) for name, at in times.items()},
            "stores": sorted(self.stores),
            "limits": self.limits.model_dump(exclude_defaults=True),
            "from": self.origin,
        }
