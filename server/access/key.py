"""A key as it is kept: never its text, which is shown once and known by its digest from then on."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from heedful.retrieval.items import iso
from heedful.server.access.client import Role
from heedful.server.access.settings import LimitSettings

OURS = re.compile(rb"hk_[a-z2-9]{8}_[A-Za-z0-9_-]{43}")
"""What `heedful keys create` makes, for scanners of secrets too."""
_MARK = b"hk_"
_ID = "abcdefghijkmnpqrstuvwxyz23456789"  # none that is taken for another
_SHOWN = len("hk_01234567_0123")


def new_id() -> str:
    return "".join(secrets.choice(_ID) for _ in range(8))


def new_text(id: str) -> str:
    """A new key's text: 256 bits of chance behind its id."""
    return f"hk_{id}_{secrets.token_urlsafe(32)}"


def digest_of(text: str) -> bytes:
    """Long random texts need no slower hash."""
    return sha256(text.encode()).digest()


def prefix_of(text: str) -> str:
    """By which people recognise a key."""
    return text[:_SHOWN]


def holds_key(text: bytes) -> bool:
    """Whether a key that was made here stands in what somebody wrote."""
    return _MARK in text and OURS.search(text) is not None


def without_keys(text: bytes) -> bytes:
    """What somebody wrote, with no more of each key than people recognise it by."""
    return OURS.sub(lambda found: found[0][:_SHOWN] + b"***", text) if _MARK in text else text


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
