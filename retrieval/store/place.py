"""Where stores are, as a setting says it: a folder, or the address of a database. Imports nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_POSTGRES = ("postgresql://", "postgres://")


def is_postgres(place: object) -> bool:
    """Whether it is a database's address, and no folder."""
    return isinstance(place, str) and place.startswith(_POSTGRES)


def place_of(said: Any) -> Any:
    """A setting as it is meant: text that is no address is a folder's path."""
    return Path(said) if isinstance(said, str) and not is_postgres(said) else said
