"""Where stores are kept: a folder of files (`folder.Folder`), or a PostgreSQL database (`postgres.backend`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.errors import InvalidItem, StoreError
from heedful.retrieval.items import Version
from heedful.retrieval.store.any_store import AnyStore, Progress
from heedful.retrieval.store.place import is_postgres

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Backend(Protocol):
    """One tenant's stores by name, or those above all tenants. Names are right ones (`check_name_of_store`).

    Methods block and raise StoreError; `names`, `has` and `gone` tell at once what is known.
    """

    @property
    def gone(self) -> bool:
        """Whether there is nothing left of a place that was there."""
        ...

    def names(self) -> list[str]: ...

    def has(self, name: str) -> bool: ...

    def look(self) -> None:
        """From now on `names` and `has` know all that there is at this moment."""
        ...

    def embedder_of(self, name: str) -> str:
        """The name of the embedder that made a store's vectors."""
        ...

    def count(self, name: str) -> int:
        """How many items stand in a store, without opening it."""
        ...

    def history(self, name: str, id: str) -> list[Version]:
        """As `AnyStore.history`, without opening the store. Raises UnknownStore."""
        ...

    def open(self, name: str, embedder: Embedder, progress: Progress) -> AnyStore:
        """Raises UnknownStore. `progress` is told where it has to be embedded anew."""
        ...

    def create(self, name: str, embedder: Embedder) -> bool:
        """Whether it is new; one that is there stays as it is."""
        ...

    def drop(self, name: str) -> None:
        """Deletes a store, history and all. Whoever has it open sees that at the next use."""
        ...

    def below(self, tenant: str) -> Backend:
        """A tenant's."""
        ...

    def tenants(self) -> list[str]:
        """Those who have something below this."""
        ...

    def left(self) -> list[str]:
        """Names of stores of which there is anything, whole or not."""
        ...

    def clear(self) -> None:
        """Takes away the place of a tenant whose stores are all deleted."""
        ...

    def close(self) -> None: ...


def backend_of(place: Path | str) -> Backend:
    """The stores at a place: a folder, or postgresql://USER@HOST/DATABASE. Raises StoreError."""
    if is_postgres(place):
        try:
            from heedful.retrieval.postgres.backend import PostgresBackend
        except ImportError as error:
            raise StoreError(
                f"stores in PostgreSQL need psycopg: pip install 'heedful[postgres]' ({error})"
            ) from error
        return PostgresBackend(str(place))
    from heedful.retrieval.store.folder import Folder

    return Folder(Path(place))


def check_name_of_store(name: str) -> None:
    """Raises InvalidItem for a name that can't be a store's."""
    if not _NAME.fullmatch(name):
        raise InvalidItem(
            "a store's name has lower-case letters, digits, - and _, 64 at most, and begins with no sign",
            "store",
        )


def check_name_of_tenant(tenant: str) -> None:
    """Raises InvalidItem."""
    if not _NAME.fullmatch(tenant):
        raise InvalidItem("a tenant's name has lower-case letters, digits, - and _, 64 at most", "tenant")
