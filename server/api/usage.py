"""/v1/alignment/usage: what a tenant and its keys have used, what is left, and when it renews."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from heedful.server.access.client import Role
from heedful.server.access.letting_in import client_of
from heedful.server.access.roles import administers
from heedful.server.access.settings import LimitSettings
from heedful.server.api.operation import Operation
from heedful.server.http import json_response
from heedful.server.limits.budgets import iso_seconds
from heedful.server.limits.terms import Owner
from heedful.server.service import Service


class PeriodObject(msgspec.Struct):
    """A day or a month, in UTC. `limit` and `remaining` are null where there is no budget."""

    period: str
    tokens: int
    requests: int
    limit: int | None
    remaining: int | None
    renews: str


class MinuteObject(msgspec.Struct):
    """Of one limit: what counts at this moment, and the seconds until nothing does."""

    used: int
    limit: int
    remaining: int
    reset: float


class UsageEntry(msgspec.Struct):
    """Of a tenant, or of one key of it."""

    tenant: str
    key: str | None
    day: PeriodObject
    month: PeriodObject
    requests_per_minute: MinuteObject | None
    tokens_per_minute: MinuteObject | None
    running: int | None
    """Requests under way, where their number is limited."""


class UsageList(msgspec.Struct):
    data: list[UsageEntry]
    object: str = "list"


async def usage(request: Request) -> Response:
    """GET /v1/alignment/usage: of the tenant and the key that ask; for admins, of all that they administer."""
    service: Service = request.app.state.service
    client = client_of(request.scope)
    owners = {
        (owner.tenant, owner.key): owner
        for owner in (
            Owner(client.tenant.name, None, client.tenant.settings.limits),
            Owner(client.tenant.name, client.key_id, client.limits),
        )
    }
    if client.role is Role.ADMIN:
        for owner in _all(service):
            if administers(client, owner.tenant):
                owners.setdefault((owner.tenant, owner.key), owner)
    entries = [await _entry(service, owner) for _, owner in sorted(owners.items(), key=_order)]
    return json_response(UsageList(entries))


def _all(service: Service) -> Iterable[Owner]:
    """Every tenant that is known or has used something, and every key that has."""
    limits = {tenant.name: tenant.settings.limits for tenant in service.access.tenants()}
    for tenant, key in service.limits.budgets.all():
        limits.setdefault(tenant, LimitSettings())
        if key:
            known = service.access.named(key)
            yield Owner(tenant, key, LimitSettings() if known is None else known.limits)
    for tenant, settings in limits.items():
        yield Owner(tenant, None, settings)


def _order(item: tuple[tuple[str, str | None], Owner]) -> tuple[str, str]:
    (tenant, key), _ = item
    return tenant, key or ""


async def _entry(service: Service, owner: Owner) -> UsageEntry:
    shared, limits = service.limits, owner.limits
    used, today = shared.budgets.used(owner.tenant, owner.key), shared.budgets.today
    day, month = shared.budgets.spent(owner.tenant, owner.key)
    return UsageEntry(
        owner.tenant,
        owner.key,
        _period(today.day, day, used.day_requests, limits.tokens_per_day, today.ends),
        _period(today.month, month, used.month_requests, limits.tokens_per_month, today.month_ends),
        await _minute(service, owner.of("requests"), limits.requests_per_minute),
        await _minute(service, owner.of("tokens"), limits.tokens_per_minute),
        None if limits.concurrent is None else shared.running[owner.name],
    )


def _period(period: str, tokens: int, requests: int, limit: int | None, ends: float) -> PeriodObject:
    remaining = None if limit is None else max(0, limit - tokens)
    return PeriodObject(period, tokens, requests, limit, remaining, iso_seconds(ends))


async def _minute(service: Service, key: str, limit: int | None) -> MinuteObject | None:
    if limit is None:
        return None
    (window,) = await service.limits.rates.look([key])
    return MinuteObject(window.used, limit, max(0, limit - window.used), round(window.reset, 1))


OPERATIONS = (
    Operation(
        "GET",
        "/v1/alignment/usage",
        usage,
        "What was used, what is left, and when it renews",
        role=Role.USER,
        answer=UsageList,
    ),
)
