"""Server-sent events from a byte stream, wherever it is cut (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Takes the bytes as they come and gives back the data of each event that they complete.

    Comments, `event:`, `id:` and `retry:` lines are dropped, several `data:` lines joined by a newline. An
    event that the stream leaves unfinished is dropped too, as the standard says.
    """

    __slots__ = ("_line", "_rest", "_size", "_started", "limit")

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self.limit = limit
        self._rest = b""
        self._line: list[bytes] = []
        self._size = 0
        self._started = False

    def feed(self, piece: bytes) -> list[bytes]:
        """Raises ValueError where a single event grows beyond `limit` bytes."""
        self._size += len(piece)
        if self._size > self.limit:
            raise ValueError(f"an event is larger than {self.limit} bytes")
        if b"\n" not in piece and b"\r" not in piece and not self._rest.endswith(b"\r"):
            self._line.append(piece)  # the middle of a long line: looked at once, when it ends
            return []
        text = b"".join((self._rest, *self._line, piece))
        self._line.clear()
        if not self._started:
            self._started = True
            text = text.removeprefix(_BOM)
        held = b""
        if b"\r" in text:
            if text.endswith(b"\r"):  # perhaps half of a CRLF
                text, held = text[:-1], b"\r"
            text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *events, rest = text.split(b"\n\n")
        self._rest = rest + held
        self._size = len(self._rest)
        found = []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif (data := _data(event)) is not None:
                found.append(data)
        return found


def _data(event: bytes) -> bytes | None:
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    lines += [b"" for line in event.split(b"\n") if line == b"data"]
    return b"\n".join(lines) if lines else None


def whole_events(text: bytes) -> int:
    """How many of these bytes are whole events: everything up to the last blank line."""
    return max(
        text.rfind(b"\n\n") + 2 if b"\n\n" in text else 0,
        text.rfind(b"\n\r\n") + 3 if b"\r" in text and b"\n\r\n" in text else 0,
        text.rfind(b"\r\r") + 2 if b"\r\r" in text else 0,
    )
