"""What is kept of a tenant beside its settings: how much that is, and how all of it goes.

Everything is done on the files, which servers and commands share, so that it is the same beside a server as in one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from heedful.retrieval.store.files import alone
from heedful.retrieval.store.stores import Stores
from heedful.server.access.database import KeyDatabase
from heedful.server.limits import purging as usage
from heedful.server.records.file import NAME, RecordsFile
from heedful.server.stores import drop_stores_of
from heedful.strategies import RequestError


@dataclass(frozen=True, slots=True)
class Leftovers:
    """`stores`: names; `days`: on which something was used; `keys`: those that have ended too; `purging`: whether a
    purge of the tenant has begun and not ended."""

    stores: tuple[str, ...] = ()
    records: int = 0
    days: int = 0
    keys: int = 0
    purging: bool = False

    def __bool__(self) -> bool:
        return bool(self.stores or self.records or self.days or self.keys or self.purging)

    def __str__(self) -> str:
        counted = ((len(self.stores), "store"), (self.records, "record"), (self.keys, "key"))
        told = [f"{n} {what}{'' if n == 1 else 's'}" for n, what in counted if n]
        if self.days:
            told.append(f"the usage of {self.days} day{'' if self.days == 1 else 's'}")
        return ", ".join(told) or "nothing"


class TenantData:
    """Of all tenants in one folder. `stores`: None where the server has none. Methods block, and raise StoreError or
    AccessFailed where a file can't be read or written."""

    def __init__(self, keys: KeyDatabase, stores: Stores | None, usage_file: Path) -> None:
        self._keys, self._stores, self._usage = keys, stores, usage_file
        self._folder = keys.path.parent

    def of(self, tenant: str) -> Leftovers:
        """What there is."""
        held = self._keys.all()
        return Leftovers(
            () if self._stores is None else tuple(self._stores.left_below(tenant)),
            self._records().count(tenant) if self._recorded else 0,
            usage.days_of(self._usage, tenant),
            sum(key.tenant == tenant for key in held.keys),
            tenant in held.purges.pending,
        )

    def in_the_way(self, tenant: str) -> Leftovers:
        """What somebody who is made under a name that no tenant has would find. Of a purge that has not ended the
        file of keys tells by itself."""
        held = self._keys.all()
        nobodys = tenant not in held.tenants and tenant not in held.purges.pending
        return self.of(tenant) if nobodys else Leftovers()

    def purge(self, tenant: str) -> Leftovers:
        """Deletes all of it, of a tenant whose purge has begun (`KeyDatabase.begin_purge`); what that was.

        Killed in the middle it has begun still, and goes on when it is called again. Of several at once each waits
        for the one before, and has nothing left to do.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with alone(self._folder, ".purge.lock"):
            there = self.of(tenant)
            if not there.purging:
                return Leftovers()
            keys = [key.id for key in self._keys.all().keys if key.tenant == tenant]
            if self._stores is not None:
                drop_stores_of(self._stores, tenant)
                while self._stores.left_below(tenant):  # made in this moment, by what was still ending
                    drop_stores_of(self._stores, tenant)
            if self._recorded:
                records = self._records()
                with records.opened() as db:
                    records.purge(db, tenant, keys)
            usage.purge(self._usage, tenant, keys)
            self._keys.end_purge(tenant)
        return there

    @property
    def _recorded(self) -> bool:
        return (self._folder / NAME).exists()

    def _records(self) -> RecordsFile:
        return RecordsFile(self._folder)


def name_in_use(tenant: str, left: Leftovers, fix: str) -> RequestError:
    """Why nobody is made under a name. `fix`: how the one who asks does what is to be done."""
    return RequestError(
        f"the name {tenant!r} has been in use, and what is kept under it would be the new tenant's: {left}. {fix}",
        param="name",
        status=409,
        code="tenant_leftovers",
    )
