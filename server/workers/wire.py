"""What a supervisor and its workers say to each other, over a pair of sockets that ends with either of them."""

from __future__ import annotations

import pickle
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heedful.server.config import Config
from heedful.server.framing import framed, receive


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What a worker is told first. `number`: its own, from 0, and its successor's where it ends. `again`: whether it
    is such a successor. `listener`: the number of the socket's file. `folder`: what all workers share."""

    config: Config
    number: int
    again: bool
    listener: int
    folder: Path

    @property
    def embedding(self) -> Path:
        return self.folder / EMBEDDING


class WorkerReport(msgspec.Struct, frozen=True):
    """What it says once it listens, or (`failed`) why it can't."""

    failed: str | None = None


LIMITS = "limits"
"""The file, in the folder, of the counts that all workers keep together."""
EMBEDDING = "embedding"
"""The socket, in the folder, of the process that embeds for all workers."""
encoded = msgspec.json.Encoder().encode
decoded = msgspec.json.Decoder(WorkerReport).decode


def packed(place: WorkerPlace) -> bytes:
    """Pickled, as a message: a supervisor and its workers are one program."""
    return framed(pickle.dumps(place))


def unpacked(line: socket.socket) -> WorkerPlace:
    """Raises EOFError where the supervisor has gone."""
    place: WorkerPlace = pickle.loads(receive(line.fileno()))
    return place
