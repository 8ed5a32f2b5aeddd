"""Multipart forms on their way through: a few short fields are read and rewritten, files never held (RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from heedful.strategies import RequestError

_BOUNDARY = re.compile(r'(?i);\s*boundary\s*=\s*(?:"([^"]{1,70})"|([^";,\s]{1,70}))')
_DISPOSITION = re.compile(rb"(?im)^content-disposition[ \t]*:(.*)$")
_NAME = re.compile(rb'(?i);\s*name\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))')
_FILE = re.compile(rb"(?i);\s*filename\*?\s*=")
_MOST_HEAD, _MOST_FIELD = 16 * 1024, 4096


def boundary_of(content_type: str) -> bytes:
    """Raises RequestError where a form names none."""
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise RequestError("content-type: a multipart form needs its boundary", param="content-type")
    return (match[1] or match[2]).encode("latin-1")


class MultipartForm:
    """Takes a form's bytes as they come (`feed`, then `end`) and gives them back, the values of the fields `watched`
    as `rewrite(name, value)` has them. `rewrite` may raise RequestError.
    """

    def __init__(self, boundary: bytes, watched: Collection[str], rewrite: Callable[[str, str], str]) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._watched, self._rewrite = watched, rewrite
        self._rest = b"\r\n"  # the first boundary may stand at the very start
        self._ours = 2
        self._field: str | None = None
        self._state = self._data

    def feed(self, piece: bytes) -> bytes:
        self._rest += piece
        out = []
        while (found := self._state()) is not None:
            out.append(found)
        return self._without_ours(b"".join(out))

    def end(self) -> bytes:
        """What is left of a form that has ended, or broken off."""
        rest, self._rest = self._rest, b""
        return self._without_ours(rest)

    def _without_ours(self, text: bytes) -> bytes:
        cut = min(self._ours, len(text))
        self._ours -= cut
        return text[cut:]

    def _take(self, count: int) -> bytes:
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    # Each state takes what it can of `_rest` and returns it; None: it needs more.

    def _data(self) -> bytes | None:
        """A file, or a field that nobody watches: up to the next boundary."""
        at = self._rest.find(self._delimiter)
        if at >= 0:
            self._state = self._head
            return self._take(at + len(self._delimiter))
        # The boundary's beginning may be the end of what is here.
        keep = len(self._delimiter) - 1
        return self._take(len(self._rest) - keep) if len(self._rest) > keep else None

    def _head(self) -> bytes | None:
        """What follows a boundary: the headers of a part, or the end."""
        if self._rest.startswith(b"--"):
            self._state = self._epilogue
            return b""
        end = self._rest.find(b"\r\n\r\n")
        if end < 0:
            if len(self._rest) > _MOST_HEAD:
                raise RequestError(
                    f"a part's headers are longer than {_MOST_HEAD} bytes", code="invalid_form"
                )
            return None
        head = self._take(end + 4)
        self._field = self._name(head)
        self._state = self._data if self._field is None else self._value
        # An empty part: its boundary begins with the line break that ends its headers.
        self._rest, head = head[-2:] + self._rest, head[:-2]
        return head

    def _value(self) -> bytes | None:
        end = self._rest.find(self._delimiter)
        if end < 0 and len(self._rest) <= _MOST_FIELD:
            return None
        if end < 0 or end > _MOST_FIELD:
            raise RequestError(f"{self._field}: longer than {_MOST_FIELD} bytes", param=self._field)
        field, break_, self._state = self._field, b"\r\n", self._data
        assert field is not None
        raw = self._take(end)[2:]
        try:
            value = raw.decode()
        except UnicodeDecodeError as error:
            raise RequestError(f"{field}: is not UTF-8", param=field) from error
        told = self._rewrite(field, value)
        return break_ + (raw if told == value else told.encode())

    def _epilogue(self) -> bytes | None:
        return self._take(len(self._rest)) or None

    def _name(self, head: bytes) -> str | None:
        """The part's name, if it is a field that is watched."""
        for match in _DISPOSITION.finditer(head):
            line = match[1]
            named = _NAME.search(line)
            if named and not _FILE.search(line):
                name = (named[1] if named[1] is not None else named[2]).decode("latin-1")
                return name if name in self._watched else None
        return None
