"""What the API of keys and tenants takes and gives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

RoleName = Literal["user", "author", "admin"]
TimeField = Annotated[Any, Meta(extra_json_schema={"type": ["string", "number", "null"]})]
LimitField = Annotated[int, Meta(ge=1)] | None


class LimitsBody(msgspec.Struct, forbid_unknown_fields=True):
    requests_per_minute: LimitField = None
    tokens_per_minute: LimitField = None
    concurrent: LimitField = None
    tokens_per_day: LimitField = None
    tokens_per_month: LimitField = None


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """A key to be made. `tenant`: the asker's own where none is named. `expires`: ISO 8601 or seconds since 1970."""

    tenant: str | None = None
    role: RoleName = "user"
    name: Annotated[str, Meta(max_length=200)] = ""
    expires: TimeField = None
    stores: Annotated[list[str], Meta(max_length=1000)] = []
    limits: LimitsBody | None = None


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    grace: Annotated[float, Meta(ge=0, le=30 * 86400)] = 0.0


class KeyObject(msgspec.Struct):
    id: str
    tenant: str
    role: RoleName
    name: str
    prefix: str
    state: Literal["active", "expired", "revoked"]


class NewKey(KeyObject, kw_only=True):
    """A key with its text, which is told this once."""

    key: str


class KeyList(msgspec.Struct):
    object: Literal["list"]
    data: list[KeyObject]


class TenantBody(msgspec.Struct, forbid_unknown_fields=True):
    """A tenant's settings, as `tenants` in heedful.yaml has them."""

    floor: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    records: dict[str, Any] | None = None
    reads: list[str] = []


class TenantObject(msgspec.Struct):
    name: str
    settings: dict[str, Any]
    keys: int


class TenantList(msgspec.Struct):
    object: Literal["list"]
    data: list[TenantObject]


class PurgedObject(msgspec.Struct):
    """What there was of a tenant, and is no more."""

    stores: list[str]
    records: int
    usage_days: int
    keys: int


class DeletedTenant(msgspec.Struct):
    """`revoked`: keys that were in force. `purged`: null where all but the settings stays."""

    name: str
    deleted: bool
    revoked: int
    purged: PurgedObject | None
