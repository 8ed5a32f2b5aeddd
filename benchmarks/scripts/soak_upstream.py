"""An upstream that answers well, badly, late, half or not at all, by dice."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

_HEAD = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "faulty"}
_USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
_MESSAGE = {"role": "assistant", "content": "Two words."}
_CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
WHOLE = {
    **_HEAD,
    "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
    "usage": _USAGE,
}
STATUSES = (400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504, 529, 600, 999, 204, 302)


def _event(delta: dict[str, object], finish: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: %s\n\n" % json.dumps({**_HEAD, "choices": choices}).encode()


EVENTS = [
    _event({"role": "assistant"}),
    *(_event({"content": f"w{i} "}) for i in range(12)),
    _event({}, "stop"),
]
DONE = b"data: [DONE]\n\n"


def _plain(status: int, body: bytes, *headers: bytes, kind: bytes = b"application/json") -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"content-type: " + kind, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _piece(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def _answer(stream: bool) -> AsyncIterator[bytes]:
    """The bytes of one answer; ends early where the connection is to be cut."""
    dice = random.random()
    error = json.dumps({"error": {"message": "no", "type": "x", "code": "y"}}).encode()
    if dice < 0.15:
        yield _plain(random.choice(STATUSES), error, b"retry-after: 0")
    elif dice < 0.18:
        yield _plain(200, b"<html>Sorry</html>", kind=b"text/html")
    elif dice < 0.21:
        yield _plain(200, b'{"choices": "none"}')
    elif dice < 0.24:
        yield _plain(200, error)
    elif dice < 0.26:
        yield b"HTTP/1.1 200 OK\r\nx-odd: \xff\xfe\r\nbroken header\r\n\r\n"
    elif dice < 0.29:
        return  # hangs up without a word
    elif dice < 0.31:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{"
    elif dice < 0.33:
        await asyncio.sleep(3)
        yield _plain(503, error)
    elif not stream:
        yield _plain(200, json.dumps(WHOLE).encode())
    else:
        yield b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        events = list(EVENTS)
        kind = random.random()
        if kind < 0.1:
            events[6:] = [b"data: {not json\n\n"]
        elif kind < 0.2:
            events[6:] = [b"data: %s\n\n" % error]
        elif kind < 0.3:
            events[4] = _event({"tool_calls": [_CALL]})
        elif kind < 0.4:
            events[5:5] = [b": keep-alive\n\n", b"event: odd\ndata: {}\n\n"]
        for event in events[: random.randint(1, 9) if kind > 0.9 else None]:
            yield _piece(event)
            await asyncio.sleep(0.002)
        if kind > 0.9:
            return  # in the middle
        yield _piece(DONE) + (b"0\r\n\r\n" if kind > 0.45 else b"")  # some keep the answer open after its end


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            length = next(
                (
                    int(line.split(":")[1])
                    for line in head.split("\r\n")
                    if line.startswith("content-length:")
                ),
                0,
            )
            body = await reader.readexactly(length)
            ended = False
            async for piece in _answer(b'"stream":true' in body.replace(b" ", b"")):
                writer.write(piece)
                await writer.drain()
                ended = piece.endswith(b"0\r\n\r\n") or b"content-length" in piece
            if not ended:
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@contextmanager
def faulty_upstream() -> Iterator[str]:
    """Yields its address; it lives in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(_serve, "127.0.0.1", 0), loop).result(10)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
