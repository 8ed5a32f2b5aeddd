"""Messages between a server's processes, each with its length before it."""

from __future__ import annotations

import os

_SIZE = 8  # bytes before each message that say how long it is
_AT_ONCE = 1 << 20  # bytes of one read


def framed(message: bytes) -> bytes:
    """The message as it is sent."""
    return len(message).to_bytes(_SIZE) + message


def send(fd: int, message: bytes) -> None:
    """Blocks. Raises OSError where nobody reads."""
    for part in (len(message).to_bytes(_SIZE), message):
        left = memoryview(part)
        while left:
            left = left[os.write(fd, left) :]


def receive(fd: int) -> bytes:
    """Blocks. Raises EOFError where nobody writes any more."""
    return _exactly(fd, int.from_bytes(_exactly(fd, _SIZE)))


def _exactly(fd: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(fd, min(size, _AT_ONCE))
        if not piece:
            raise EOFError("it has ended")
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
