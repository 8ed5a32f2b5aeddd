"""What can go wrong with a store. Retrieval knows no HTTP: whoever calls it decides what a client is told.

StoreError
├── InvalidItem        an item, a filter or a name that can't be taken as it is
├── UnknownStore       no store of that name
├── UnknownItem        no item of that id
├── VersionConflict    an item is no longer what the writer took it for
├── DamagedStore       the file is no heedful store, or is broken
├── StoreUnavailable   the database that the store is in can't be reached, or can't do it now
├── EmbedderChanged    the vectors were made by another embedding model
├── EmbedderMissing    the embedding model can't be loaded
└── EmbedderFailed     the embedding model fails at some texts
"""

from __future__ import annotations


class StoreError(Exception):
    """Base of all errors of retrieval."""


class InvalidItem(StoreError):
    """`field` is what is wrong, where one field is."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownStore(StoreError):
    pass


class UnknownItem(StoreError):
    pass


class VersionConflict(StoreError):
    """`id`: of the item that somebody has changed meanwhile."""

    def __init__(self, message: str, id: str) -> None:
        super().__init__(message)
        self.id = id


class DamagedStore(StoreError):
    pass


class StoreUnavailable(StoreError):
    pass


class EmbedderChanged(StoreError):
    pass


class EmbedderMissing(StoreError):
    pass


class EmbedderFailed(StoreError):
    pass
