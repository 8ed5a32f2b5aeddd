"""What a server and the process that writes its records tell each other, through two pipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec


class Failure(msgspec.Struct, array_like=True, gc=False):
    """What went wrong with a request."""

    type: str
    code: str | None
    status: int
    message: str


class Material(msgspec.Struct, array_like=True):
    """What a record is made from, but for the answer's bytes. Fields as in `Facts`, times in milliseconds."""

    id: str
    came: float
    tenant: str
    key_id: str | None
    keep_days: float
    full: bool
    route: str
    fields: Mapping[str, Any]
    model: str | None
    alignment: str | None
    plan: msgspec.Raw
    floor: int
    steps: list[dict[str, Any]]
    stages: Any
    usage: tuple[int, int] | None
    usage_estimated: bool
    response_id: str | None
    answer_cut: bool
    status: int
    error: Failure | None
    gone: bool
    total: float
    first: float | None


class Erase(msgspec.Struct, tag=True):
    """`RecordsFile.erase`."""

    tenant: str
    user: str
    by: str | None


class Expire(msgspec.Struct, tag=True):
    """`RecordsFile.expire`, once or until there is no more; tells whether there may be more."""

    now: float
    all: bool


class Keep(msgspec.Struct, tag=True):
    """`RecordsFile.keep`, and lets expire what is due."""

    days: dict[str, float]
    now: float


Work = Erase | Expire | Keep


class Batch(msgspec.Struct, array_like=True):
    """Materials to write, all or none, and what is to be done then. `again`: perhaps they are in the file already."""

    materials: Sequence[bytes]
    work: Work | None = None
    again: bool = False


class WriterReply(msgspec.Struct, array_like=True):
    """`failed`: why nothing was written. `lost`: of what no record could be made, each with its traceback. `done`:
    what the work has come to; `refused`: why it has not."""

    failed: str | None = None
    lost: list[str] = []
    done: int = 0
    refused: str | None = None


_encode = msgspec.json.Encoder(enc_hook=repr).encode
_material = msgspec.json.Decoder(Material).decode
pack = msgspec.msgpack.Encoder().encode
read_batch = msgspec.msgpack.Decoder(Batch).decode
read_reply = msgspec.msgpack.Decoder(WriterReply).decode


def encoded(material: Material, answered: Sequence[bytes]) -> bytes:
    """As JSON, which has no line breaks, and behind a line break the answer as it went out."""
    return b"\n".join((_encode(material), b"".join(answered)))


def decoded(data: bytes) -> tuple[Material, bytes]:
    """The reverse."""
    material, _, answered = data.partition(b"\n")
    return _material(material), answered
