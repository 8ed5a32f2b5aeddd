"""Records as a file: JSON lines, or Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from heedful.strategies import RequestError

FORMATS = {"jsonl": "application/jsonl", "parquet": "application/vnd.apache.parquet"}
_TEXTS = ("id", "tenant", "key_id", "route", "model", "alignment", "verdict")


def export(kind: str, pages: Iterator[list[bytes]]) -> tuple[Iterator[bytes], str]:
    """The pieces of a file of records (JSON each), and its media type. Raises RequestError without pyarrow."""
    return (_lines(pages) if kind == "jsonl" else parquet(pages)), FORMATS[kind]


def _lines(pages: Iterable[list[bytes]]) -> Iterator[bytes]:
    for page in pages:
        yield b"".join(body + b"\n" for body in page)


def parquet(pages: Iterable[list[bytes]]) -> Iterator[bytes]:
    """A row group for each page: what is filtered by as columns, and the whole record as JSON in `record`."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RequestError(
            "format: Parquet needs pyarrow on the server (pip install 'heedful[records]'); jsonl needs nothing",
            param="format",
            code="not_installed",
        ) from error
    columns = [
        ("time", pyarrow.timestamp("us", "UTC")),
        *((name, pyarrow.string()) for name in _TEXTS),
        ("users", pyarrow.list_(pyarrow.string())),
        *((name, pyarrow.int64()) for name in ("status", "rounds", "prompt_tokens", "completion_tokens")),
        *((name, pyarrow.float64()) for name in ("total_ms", "first_byte_ms")),
        ("record", pyarrow.string()),
    ]
    return _groups(pages, pyarrow, pyarrow.schema(columns))


def _groups(pages: Iterable[list[bytes]], pyarrow: Any, schema: Any) -> Iterator[bytes]:
    out = _Pieces()
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        for page in pages:
            writer.write_table(pyarrow.Table.from_pylist([_row(body) for body in page], schema))
            yield out.taken()
    yield out.taken()


class _Pieces(io.RawIOBase):
    """A file that is written to its end once; what has been written can be taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        self._pieces.append(bytes(data))
        self._written += len(self._pieces[-1])
        return len(self._pieces[-1])

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _row(body: bytes) -> dict[str, Any]:
    record = msgspec.json.decode(body)
    usage, timing = record.get("usage") or {}, record.get("timing_ms") or {}
    return {
        "time": datetime.fromisoformat(record["time"]),
        **{name: record.get(name) for name in _TEXTS},
        "users": record.get("users", []),
        **{name: record.get(name) for name in ("status", "rounds")},
        **{name: _whole(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")},
        "total_ms": timing.get("total"),
        "first_byte_ms": timing.get("first_byte"),
        "record": body.decode(),
    }


def _whole(value: Any) -> int | None:
    """An upstream may count in anything."""
    return value if isinstance(value, int) else None
