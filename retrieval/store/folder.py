"""Stores as files of one folder, one each; those of tenants in folders below."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

from heedful.retrieval.embedding.embedder import Embedder
from heedful.retrieval.errors import InvalidItem, StoreError
from heedful.retrieval.items import Version
from heedful.retrieval.store import files
from heedful.retrieval.store.any_store import Progress
from heedful.retrieval.store.backend import check_name_of_store, check_name_of_tenant
from heedful.retrieval.store.database import Database
from heedful.retrieval.store.store import Store

_SUFFIX, _TENANTS = ".db", "tenants"


class Folder:
    """A Backend. The folder need not be there before its first store is made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def gone(self) -> bool:
        return not self.path.is_dir()

    def names(self) -> list[str]:
        return sorted(p.stem for p in self.path.glob(f"*{_SUFFIX}") if _is_name(p.stem))

    def has(self, name: str) -> bool:
        return self.file(name).is_file()

    def look(self) -> None:
        pass  # every question is one to the folder

    def file(self, name: str) -> Path:
        """Raises InvalidItem for a name that can't be a store's."""
        check_name_of_store(name)
        return self.path / f"{name}{_SUFFIX}"

    def embedder_of(self, name: str) -> str:
        with closing(Database(self.file(name))) as database:
            return database.identity().embedder

    def count(self, name: str) -> int:
        with closing(Database(self.file(name))) as database:
            return database.count()

    def history(self, name: str, id: str) -> list[Version]:
        with closing(Database(self.file(name))) as database:
            return database.history(id)

    def open(self, name: str, embedder: Embedder, progress: Progress) -> Store:
        return Store(self.file(name), embedder, progress)

    def create(self, name: str, embedder: Embedder) -> bool:
        path = self.file(name)
        # Where it can't be made, no model need be loaded to say so.
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Database.create(path, embedder.name, embedder.probe).close()
        except FileExistsError:
            return False
        return True

    def drop(self, name: str) -> None:
        files.remove(self.file(name))

    def below(self, tenant: str) -> Folder:
        check_name_of_tenant(tenant)
        return Folder(self.path / _TENANTS / tenant)

    def tenants(self) -> list[str]:
        return sorted(p.name for p in (self.path / _TENANTS).glob("*") if p.is_dir() and _is_name(p.name))

    def left(self) -> list[str]:
        found = self.path.iterdir() if self.path.is_dir() else ()
        return sorted({path.name.lstrip(".").partition(".")[0] for path in found if path.name != files.LOCK})

    def clear(self) -> None:
        try:
            shutil.rmtree(self.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from error

    def close(self) -> None:
        pass


def _is_name(name: str) -> bool:
    try:
        check_name_of_store(name)
    except InvalidItem:
        return False
    return True
