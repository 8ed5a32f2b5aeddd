"""Which files belong to a store, and how stores are made and deleted: one at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


def saved(path: Path) -> list[Path]:
    """Index files of a store."""
    return list(path.parent.glob(f"{path.stem}.*.*.*.faiss"))


def scratch(path: Path) -> list[Path]:
    """Index files of a store that are being written, or were when a process was killed."""
    return list(path.parent.glob(f".{path.stem}.*.faiss.*"))


def remove_saved(path: Path) -> None:
    """Deletes all that is kept of a store's index."""
    with alone(path.parent):
        for file in (*saved(path), *scratch(path)):
            file.unlink(missing_ok=True)


def put(whole: Path, path: Path) -> None:
    """Gives a finished database its name. Raises FileExistsError where there is one of that name."""
    with alone(path.parent):
        if not path.exists():
            _unlink_rest(path)
        os.link(whole, path)


def remove(path: Path) -> None:
    """Deletes a store. Whoever has it open sees that at the next use."""
    with alone(path.parent):
        path.unlink(missing_ok=True)
        _unlink_rest(path)


def _unlink_rest(path: Path) -> None:
    """Also what a deletion that was cut off has left: SQLite would take its log for that of the next of this name."""
    for file in (*(path.with_name(path.name + s) for s in ("-wal", "-shm")), *saved(path)):
        file.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Among all threads and processes."""
    with (folder / lock).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
