"""A fast fake of an OpenAI-compatible server: canned answers at once, or a token every 20 ms (model `drip`).

Model `paced` keeps to a timetable, whatever the clock's hiccups: a first token after 250 ms, 63 more every 25 ms.

Written on bare asyncio protocols so that it is never what limits a measurement. Run: python fake_upstream.py PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import uvloop

TOKENS = 20  # of a streamed answer; with role, finish and [DONE] it has 23 events
DRIP, DRIP_TOKENS = 0.02, 100
PACED_FIRST, PACED, PACED_TOKENS = 0.25, 0.025, 64


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return b"data: " + json.dumps({**head, "choices": [choice]}, separators=(",", ":")).encode() + b"\n\n"


def _in_chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)


ROLE, TOKEN, FINISH, DONE = (
    _chunk({"role": "assistant", "content": ""}),
    _chunk({"content": "word "}),
    _chunk({}, "stop"),
    b"data: [DONE]\n\n",
)
_usage = {"prompt_tokens": 20, "completion_tokens": PACED_TOKENS, "total_tokens": 20 + PACED_TOKENS}
_last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake", "choices": []}
USAGE = b"data: " + json.dumps({**_last, "usage": _usage}).encode() + b"\n\n"
_message = {"role": "assistant", "content": "word " * TOKENS}
_whole = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "fake",
    "choices": [{"index": 0, "message": _message, "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS},
}
_body = json.dumps(_whole).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_body),
    _body,
)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STREAM = _HEAD + _in_chunks(ROLE, *([TOKEN] * TOKENS), FINISH, DONE) + b"0\r\n\r\n"
_models = json.dumps(
    {"object": "list", "data": [{"id": m, "object": "model"} for m in ("fake", "drip", "paced")]}
).encode()
MODELS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_models),
    _models,
)


class FakeUpstream(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer = cast(asyncio.Transport, transport), b""
        self._drip: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._drip:
            self._drip.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            if head.startswith(b"get"):
                self._transport.write(MODELS)
            elif b'"drip"' in body:
                self._drip = asyncio.ensure_future(self._drop())
            elif b'"paced"' in body:
                self._drip = asyncio.ensure_future(self._pace())
            else:
                streams = b'"stream":true' in body or b'"stream": true' in body
                self._transport.write(STREAM if streams else WHOLE)

    async def _drop(self) -> None:
        self._transport.write(_HEAD + _in_chunks(ROLE))
        for _ in range(DRIP_TOKENS):
            await asyncio.sleep(DRIP)
            self._transport.write(_in_chunks(TOKEN))
        self._transport.write(_in_chunks(FINISH, DONE) + b"0\r\n\r\n")

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for i in range(PACED_TOKENS):
            await asyncio.sleep(began + PACED_FIRST + i * PACED - loop.time())
            self._transport.write(_in_chunks(TOKEN) if i else _HEAD + _in_chunks(ROLE, TOKEN))
        self._transport.write(_in_chunks(FINISH, USAGE, DONE) + b"0\r\n\r\n")


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(FakeUpstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
