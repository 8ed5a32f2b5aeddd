"""Retrieval: texts embedded, kept in durable stores, and found again by meaning under a filter."""

from heedful.retrieval.embedding.embedder import Embedder
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
