"""Compressed request bodies (Content-Encoding), unpacked piece by piece and never past a limit."""

from __future__ import annotations

import sys
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from functools import cache
from typing import Any, Protocol

from heedful.strategies import RequestError

# What is unpacked at once: a few milliseconds' work.
_STEP = 1 << 20
# RFC 9659: the largest window a sender may ask of a receiver.
_ZSTD_WINDOW_LOG = 23
_MOST_CODINGS = 3
# Streams one behind another in a body. What packs in blocks makes one of every 64 KiB; empty ones cost time only.
_MOST_MEMBERS = 4096


class Decoder(Protocol):
    """One coding's state."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What a piece unpacks to, in steps of about a MiB. Raises an error of its library where it is not valid."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the data has come to its end."""
        ...


async def decoded(pieces: AsyncIterator[bytes], codings: list[str], limit: int) -> AsyncIterator[bytes]:
    """A body without its codings, which are named in the order they were applied.

    Raises RequestError: 415 for a coding that is not taken, 400 for what is not valid in it, 413 where what is to be
    unpacked is larger than `limit`.
    """
    named = [c for c in codings if c != "identity"]
    if unknown := [c for c in named if c not in _makers()]:
        raise _refused(f"{unknown[0]!r} is not taken")
    if len(named) > _MOST_CODINGS:
        raise _refused(f"at most {_MOST_CODINGS} one over another are taken")
    for coding in reversed(named):
        pieces = _without(at_most(pieces, limit), coding, _makers()[coding]())
    async for piece in pieces:
        yield piece


def too_large(limit: int) -> RequestError:
    return RequestError(f"the body is larger than {limit} bytes", status=413, code="body_too_large")


async def at_most(pieces: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes, None]:
    """The pieces, as long as they are not more than `limit` bytes in all. Raises RequestError (413)."""
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        yield piece


def codings_of(header: str) -> list[str]:
    """The names in a Content-Encoding header, in lower case."""
    return [name for part in header.split(",") if (name := part.strip().lower())]


def taken() -> list[str]:
    """The codings that can be unpacked here."""
    return [name for name in _makers() if not name.startswith("x-")]


def _refused(why: str) -> RequestError:
    known = ", ".join(taken())
    return RequestError(
        f"Content-Encoding: {why}; send one of {known}, or the body as it is",
        status=415,
        param="content-encoding",
        code="unsupported_content_encoding",
        headers={"accept-encoding": known},
    )


async def _without(pieces: AsyncIterator[bytes], coding: str, decoder: Decoder) -> AsyncIterator[bytes]:
    begun = False
    async for piece in pieces:
        if not piece:
            continue
        begun = True
        steps = decoder.feed(piece)
        while True:
            try:
                step = next(steps, None)
            except Exception as error:  # each library has its own
                raise _invalid(coding, str(error)) from error
            if step is None:
                break
            yield step
    if begun and not decoder.complete:
        raise _invalid(coding, "it ends too early")


def _invalid(coding: str, why: str) -> RequestError:
    return RequestError(
        f"the body is not valid {coding} (Content-Encoding): {why}",
        param="content-encoding",
        code="invalid_content_encoding",
    )


def _one_more(members: int) -> int:
    if members == _MOST_MEMBERS:
        raise ValueError(f"it has more than {_MOST_MEMBERS} parts")
    return members + 1


class _Zlib:
    """gzip (of any number of members), and deflate with its zlib header or, as some send it, without."""

    def __init__(self, bits: int | None) -> None:
        self._bits = bits
        self._state: Any = None
        self._more = bits is not None and bits > zlib.MAX_WBITS  # further members
        self._members = 0

    @property
    def complete(self) -> bool:
        return self._state is not None and bool(self._state.eof)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._state is None or (self._more and self._state.eof):
                self._members = _one_more(self._members)
                self._state = zlib.decompressobj(self._window(piece))
            elif self._state.eof:
                raise zlib.error("there is more behind its end")
            step = self._state.decompress(piece, _STEP)
            yield step
            # All may have gone in, and not all have come out.
            while not self._state.eof and (self._state.unconsumed_tail or len(step) == _STEP):
                step = self._state.decompress(self._state.unconsumed_tail, _STEP)
                yield step
            piece = self._state.unused_data

    def _window(self, piece: bytes) -> int:
        if self._bits is not None:
            return self._bits
        return zlib.MAX_WBITS if piece[0] & 0x0F == 8 and piece[0] >> 4 <= 7 else -zlib.MAX_WBITS


class _Brotli:
    def __init__(self, module: Any) -> None:
        self._state = module.Decompressor()

    @property
    def complete(self) -> bool:
        return bool(self._state.is_finished())

    def feed(self, piece: bytes) -> Iterator[bytes]:
        yield self._state.process(piece, output_buffer_limit=_STEP)
        # Not until it takes more: it does so with some of its output left, and is not finished before that is out.
        while not self._state.is_finished() and (step := self._state.process(b"", output_buffer_limit=_STEP)):
            yield step


class _Zstd:
    """Any number of frames."""

    def __init__(self, module: Any) -> None:
        options = {module.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
        self._make: Any = lambda: module.ZstdDecompressor(options=options)
        self._state: Any = self._make()
        self._members = 0

    @property
    def complete(self) -> bool:
        return bool(self._state.eof)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            if self._state.eof:
                self._members = _one_more(self._members)
                self._state = self._make()
            yield self._state.decompress(piece, _STEP)
            while not self._state.eof and not self._state.needs_input:
                yield self._state.decompress(b"", _STEP)
            piece = self._state.unused_data if self._state.eof else b""


@cache
def _makers() -> dict[str, Any]:
    """How to make each coding's decoder; without those whose package is not installed."""
    makers: dict[str, Any] = {
        "gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
        "deflate": lambda: _Zlib(None),
        "x-gzip": lambda: _Zlib(16 + zlib.MAX_WBITS),
    }
    try:
        import brotli

        makers["br"] = lambda: _Brotli(brotli)
    except ImportError:
        pass
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        makers["zstd"] = lambda: _Zstd(zstd)
    except ImportError:
        pass
    return makers
