"""Retrieval: texts embedded, kept in durable stores, and found again by meaning under a filter."""

from typing import TYPE_CHECKING

from heedful.retrieval.errors import (
    DamagedStore,
    EmbedderChanged,
    EmbedderFailed,
    EmbedderMissing,
    InvalidItem,
    StoreError,
    StoreUnavailable,
    UnknownItem,
    UnknownStore,
    VersionConflict,
)
from heedful.retrieval.items import Filter, Hit, Item, Version

if TYPE_CHECKING:
    from heedful.retrieval.embedding.embedder import Embedder

__all__ = [
    "DamagedStore",
    "Embedder",
    "EmbedderChanged",
    "EmbedderFailed",
    "EmbedderMissing",
    "Filter",
    "Hit",
    "InvalidItem",
    "Item",
    "StoreError",
    "StoreUnavailable",
    "UnknownItem",
    "UnknownStore",
    "Version",
    "VersionConflict",
]


def __getattr__(name: str) -> object:
    """What brings numpy is loaded when it is asked for."""
    if name == "Embedder":
        from heedful.retrieval.embedding.embedder import Embedder

        return Embedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
