"""What holds for a client: its limits, its own and its tenant's, as they are looked at for each request."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from heedful.server.access.client import Client
from heedful.server.access.settings import LimitSettings
from heedful.server.limits.budgets import TokenBudget
from heedful.server.limits.windows import MinuteCount, RatesInMemory


@dataclass(frozen=True, slots=True)
class Owner:
    """Who has limits: a tenant, or one key of it."""

    tenant: str
    key: str | None
    limits: LimitSettings

    @property
    def name(self) -> str:
        return f"tenant {self.tenant!r}" if self.key is None else f"key {self.key!r}"

    def of(self, what: str) -> str:
        """The name of what is counted by the minute."""
        return f"{what}/{self.tenant}" if self.key is None else f"{what}/{self.tenant}/{self.key}"


@dataclass(frozen=True, slots=True)
class Terms:
    """A client's limits, its own and its tenant's, sorted by how they are looked at for each request."""

    owners: tuple[Owner, ...]
    requests: tuple[tuple[str, int], ...]
    """What is counted a minute, and the limit; the owners stand in the same order in `named`."""
    tokens: tuple[str, ...]
    named: tuple[str, ...]
    concurrent: tuple[tuple[str, int], ...]
    budgets: tuple[TokenBudget, ...]
    counts: tuple[tuple[str, int, MinuteCount], ...]
    """Of `requests` and `tokens` the kind, the limit, and where it is counted if that is in this process."""
    token_counts: tuple[MinuteCount, ...]
    keys: tuple[str, ...]
    """Of `counts`."""
    together: AbstractContextManager[None]
    """Around what is done with `counts`."""


def terms_of(client: Client, memory: RatesInMemory) -> Terms:
    """What holds for a client's requests."""
    tenant = Owner(client.tenant.name, None, client.tenant.settings.limits)
    key = Owner(client.tenant.name, client.key_id, client.limits)
    owners = tuple(owner for owner in (tenant, key) if owner.limits != LimitSettings())
    rates = [("requests", o, o.limits.requests_per_minute) for o in owners]
    rates += [("tokens", o, o.limits.tokens_per_minute) for o in owners]
    counted = [(kind, o, o.of(kind), most) for kind, o, most in rates if most is not None]
    counts = tuple((kind, most, memory.count(key)) for kind, _, key, most in counted)
    limited = [(o.limits.tokens_per_day, o.limits.tokens_per_month) for o in owners]
    return Terms(
        owners,
        tuple((key, most) for kind, _, key, most in counted if kind == "requests"),
        tuple(key for kind, _, key, _ in counted if kind == "tokens"),
        tuple(o.name for _, o, _, _ in counted),
        tuple((o.name, o.limits.concurrent) for o in owners if o.limits.concurrent is not None),
        tuple(
            TokenBudget((o.tenant, o.key), *most)
            for o, most in zip(owners, limited, strict=True)
            if most != (None, None)
        ),
        counts,
        tuple(count for kind, _, count in counts if kind == "tokens"),
        tuple(key for _, _, key, _ in counted),
        memory.together([count for _, _, count in counts]),
    )
