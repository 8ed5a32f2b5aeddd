"""Keys that stand outside the configuration: in a variable of the environment, or alone in a file."""

from __future__ import annotations

import os
from pathlib import Path


def key_in(file: Path, where: str) -> str:
    """What a file holds, but for white space around it and a byte order mark. Raises ValueError.

    `where`: the setting that names the file.
    """
    try:
        key = file.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"{where}: {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {file} is not UTF-8: save it as plain text") from error
    if not key:
        raise ValueError(f"{where}: {file} is empty")
    return _key(key, f"{where}: {file}")


def key_of(variable: str, where: str) -> str:
    """What a variable of the environment holds. Raises ValueError, which does not show it."""
    return _key(value_of(variable, where), f"{where}: the environment variable {variable}")


def value_of(variable: str, where: str) -> str:
    """Raises ValueError where it is not set."""
    if not (value := os.environ.get(variable)):
        raise ValueError(f"{where}: the environment variable {variable} is not set")
    return value


def _key(text: str, where: str) -> str:
    """A key that fits into a header. Raises ValueError, which does not show it."""
    if not ((key := text.strip()).isascii() and key.isprintable()):
        raise ValueError(f"{where} must hold the key alone, on one line of plain characters")
    return key
