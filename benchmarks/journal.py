"""Records of a long measurement as JSON lines, so that a killed run goes on where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import msgspec

from heedful.server.cli.errors import CommandError


class Record(Protocol):
    """What a journal holds: a msgspec.Struct that names what it is the result of."""

    @property
    def key(self) -> str: ...


class JournalError(CommandError):
    """A file that holds other lines than it should; names the line."""


R = TypeVar("R", bound=Record)


def read(path: Path, kind: type[R]) -> list[R]:
    """The records of a file that may still be written to: nothing is changed. Raises JournalError as Journal does."""
    return list(_read(path, kind)[0].values())


def _read(path: Path, kind: type[R]) -> tuple[dict[str, R], int]:
    """The records by key, and how many bytes of whole lines they take."""
    records: dict[str, R] = {}
    whole = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        whole += len(line)
        try:
            record = msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as error:
            raise JournalError(f"{path}:{number}: {error}") from error
        records[record.key] = record
    return records, whole


class Journal(Generic[R]):
    """An append-only file of records, and the records by key. The last record of a key counts.

    Opening reads what is there; a last line that a kill has cut off is dropped. Raises JournalError for any other
    line that is no `kind`.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._records: dict[str, R] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._records, whole = _read(path, kind)
            os.truncate(path, whole)
        self._file = path.open("ab")

    def add(self, record: R) -> None:
        """Writes a record through to the operating system."""
        self._file.write(msgspec.json.encode(record) + b"\n")
        self._file.flush()
        self._records[record.key] = record

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> R:
        return self._records[key]

    def __iter__(self) -> Iterator[R]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
