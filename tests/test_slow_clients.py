"""Clients that send slowly, do not read, or vanish: what they hold is let go, and nothing escapes to the log."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from upstream_fixtures import LIMIT, Proxy, chunk

from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.edge.listening import uvicorn_config
from heedful.server.engines.served import ServedModel
from heedful.server.service import Service
from heedful.strategies import Call, Chunk, Finish, Resources, Usage
from heedful.strategies.scripted import ScriptedEngine

HI: Any = [{"role": "user", "content": "Hi"}]
BIG = "x" * 500_000


@contextmanager
def listening(config: Config, *engines: ServedModel) -> Iterator[str]:
    """heedful's own HTTP side over the given engines; yields its address."""
    alignments = Alignments(config, Resources(prompts=Prompts(), stores=None))
    app = create_app(Service(config, {e.model: e for e in engines}, alignments))
    server = uvicorn.Server(uvicorn_config(app, config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert httpx.get(f"{url}/health", timeout=LIMIT).status_code == 200
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(LIMIT)


def connected(url: str, *, receives: int | None = None) -> socket.socket:
    """A connection that times out; with `receives` bytes at most on their way to it."""
    made = socket.socket()
    made.settimeout(LIMIT)
    if receives:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    host, port = url.removeprefix("http://").split(":")
    made.connect((host, int(port)))
    return made


def request(path: str = "/v1/chat/completions", **body: Any) -> bytes:
    content = json.dumps({"model": "scripted", "messages": HI, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def told(raw: bytes) -> tuple[int, Any]:
    """Status and body of a raw answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def time_outs_pass(url: str) -> None:
    """Returns when the server has measured its time-out four times over."""
    for _ in range(4):
        with connected(url) as slow:
            slow.sendall(b"G")
            assert told(everything(slow))[0] == 408


class Endless(ScriptedEngine):
    """Writes large pieces for ever; knows when it is at work, and when that has ended."""

    def __init__(self, pieces: int = 10**9) -> None:
        super().__init__()
        self.begun, self.ended = threading.Event(), threading.Event()
        self._pieces = pieces

    async def chat(self, call: Call) -> Any:
        self.begun.set()
        try:
            for _ in range(self._pieces):
                await asyncio.sleep(0)
                yield Chunk([{"index": 0, "delta": {"content": BIG}, "finish_reason": None}])
            yield Finish(Usage())
        finally:
            self.ended.set()


QUICK = Config(head_timeout=0.2, body_timeout=0.2, write_timeout=0.2)
PATIENT = Config(head_timeout=60, body_timeout=60, write_timeout=60)


@pytest.mark.parametrize(
    "sent",
    [
        b"P",
        b"\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Slow: y",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"POST /v1/alignment/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
    ],
)
def test_a_slow_request_is_refused(sent: bytes) -> None:
    with listening(QUICK, ScriptedEngine()) as url, connected(url) as connection:
        connection.sendall(sent)
        status, body = told(everything(connection))
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert body["error"]["type"] == "invalid_request_error"


def test_one_byte_now_and_then_is_no_progress() -> None:
    with listening(QUICK, ScriptedEngine()) as url, connected(url) as connection:
        connection.sendall(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        drips = threading.Event()

        def drip() -> None:
            while not drips.wait(0.05):
                connection.send(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            status, body = told(connection.recv(65536))
        finally:
            drips.set()
            thread.join()
    assert (status, body["type"], body["error"]["type"]) == (408, "error", "invalid_request_error")


def test_the_rest_of_a_refused_body_is_not_awaited_for_ever() -> None:
    config = QUICK.model_copy(update={"max_body_bytes": 1000})
    with listening(config, ScriptedEngine()) as url, connected(url) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"x" * 2000
        )
        status, body = told(everything(connection))  # which ends, since the server closes
    assert (status, body["error"]["code"]) == (413, "body_too_large")


def test_endless_headers_and_trailers_are_refused() -> None:
    with listening(PATIENT, ScriptedEngine()) as url:
        for start in (b"", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"):
            with connected(url) as connection:
                connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + start)
                answer = b""
                for _ in range(40):
                    try:
                        connection.sendall(b"X-More: " + b"y" * 8000 + b"\r\n")
                    except (ConnectionResetError, BrokenPipeError):
                        break  # refused, and the answer may be lost with the connection
                else:
                    answer = connection.recv(65536)
                assert not answer or told(answer)[0] == 431


def test_an_idle_connection_is_none_of_these() -> None:
    with listening(QUICK, ScriptedEngine("fine")) as url, connected(url) as idle, connected(url) as fresh:
        idle.sendall(request())
        assert b"fine" in idle.recv(65536)
        time_outs_pass(url)
        for connection in (idle, fresh):
            connection.sendall(request())
            assert b"fine" in connection.recv(65536)


def test_an_answer_that_takes_its_time_is_none_either() -> None:
    """Waiting for the model is the server's affair, and the next request may come in the meantime."""
    held, answered = threading.Event(), threading.Event()

    class Held(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            held.set()
            await asyncio.to_thread(answered.wait, LIMIT)
            async for event in super().chat(call):
                yield event

    with listening(QUICK, Held("fine")) as url, connected(url) as connection:
        again = request()
        connection.sendall(request() + again[:20])
        assert held.wait(LIMIT)
        time_outs_pass(url)
        answered.set()
        assert b"fine" in connection.recv(65536)
        connection.sendall(again[20:])
        assert b"fine" in connection.recv(65536)


def test_what_comes_behind_a_request_does_not_cost_its_answer() -> None:
    held = threading.Event()

    class Held(ScriptedEngine):
        async def chat(self, call: Call) -> Any:
            async for event in super().chat(call):
                await asyncio.to_thread(held.wait, LIMIT)
                yield event

    with listening(Config(), Held("here")) as url, connected(url) as connection:
        connection.sendall(request() + b"\x00\x01\x02 no request\r\n\r\n")
        connection.sendall(b"and more of it\r\n" * 1000)
        held.set()
        status, answer = told(everything(connection))
    assert status == 200 and answer["choices"][0]["message"]["content"] == "here"


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_does_not_read_is_cut_off(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    engine = Endless(pieces=10**9 if stream else 100)
    with listening(QUICK, engine) as url, connected(url, receives=65536) as connection:
        connection.sendall(request(stream=stream))
        assert engine.ended.wait(LIMIT), "the engine works for a client that does not read"
        time_outs_pass(url)
        raw = everything(connection)  # what was on its way, and no end
    assert BIG.encode() in raw and len(raw) < 50 * len(BIG) and not raw.endswith(b"0\r\n\r\n")
    assert not caplog.records


def test_a_client_that_does_not_read_is_out_of_time_too(caplog: pytest.LogCaptureFixture) -> None:
    config = PATIENT.model_copy(update={"request_timeout": 0.5})
    engine = Endless()
    with listening(config, engine) as url, connected(url, receives=65536) as connection:
        connection.sendall(request(stream=True))
        assert engine.begun.wait(LIMIT)
        assert engine.ended.wait(LIMIT), "the engine goes on past its time"
        # Who reads after all finds whole events, and learns why there are no more.
        events = everything_chunked(connection)
    assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
    assert all(e.startswith(b"data: {") for e in events)
    assert not caplog.records


def everything_chunked(connection: socket.socket) -> list[bytes]:
    """The events of a streamed answer."""
    raw = b""
    while not raw.endswith(b"0\r\n\r\n"):
        piece = connection.recv(1 << 20)
        assert piece, "the stream broke off"
        raw += piece
    _, _, rest = raw.partition(b"\r\n\r\n")
    body = b""
    while size := int(rest[: rest.index(b"\r\n")], 16):
        start = rest.index(b"\r\n") + 2
        body += rest[start : start + size]
        rest = rest[start + size + 2 :]
    return body.strip().split(b"\n\n")


def test_a_client_that_vanishes_while_the_head_waits_stops_the_engine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The head of the second answer has to wait for the first, which nobody reads."""

    class Second(Endless):
        async def chat(self, call: Call) -> Any:
            if not call.stream:
                yield Chunk([{"index": 0, "delta": {"content": BIG * 40}, "finish_reason": "stop"}])
                async for event in ScriptedEngine.chat(self, call):
                    yield event
                return
            async for event in super().chat(call):
                yield event

    engine = Second()
    with listening(PATIENT, engine) as url:
        with connected(url, receives=65536) as connection:
            connection.sendall(request() + request(stream=True))
            assert engine.begun.wait(LIMIT)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert engine.ended.wait(LIMIT), "the engine goes on for nobody"
    assert not caplog.records


class EndlessUpstream:
    """Sends `pieces` for ever to whoever asks; `left` is set once the asker has gone."""

    def __init__(self, head: bytes, piece: bytes) -> None:
        self.left = threading.Event()
        self._sent = head + b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%s\r\n" % (len(piece), piece)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                if connection.recv(65536).startswith(b"GET"):  # the list of models
                    connection.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    continue
                try:
                    connection.sendall(self._sent[0])
                    while True:
                        connection.sendall(self._sent[1])
                except OSError:
                    self.left.set()

    def __enter__(self) -> EndlessUpstream:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


@pytest.mark.parametrize("kind", ["stream", "whole"])
@pytest.mark.parametrize("way", ["stalls", "vanishes"])
def test_passing_on_ends_too(kind: str, way: str, proxy: Proxy, caplog: pytest.LogCaptureFixture) -> None:
    media = "text/event-stream" if kind == "stream" else "application/json"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media}\r\n".encode()
    with EndlessUpstream(head, chunk(BIG)) as upstream:
        settings = {"models": {"ours": "theirs"}, "capabilities": ["chat"], "retries": 0}
        config = Config(upstreams=[{"url": upstream.url, **settings}], request_timeout=1)  # type: ignore[list-item]
        with proxy(config) as url, connected(url, receives=65536) as connection:
            connection.sendall(request(model="ours", stream=kind == "stream"))
            if way == "vanishes":
                assert connection.recv(1)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.close()
            assert upstream.left.wait(LIMIT), "the upstream goes on for nobody"
            if way == "stalls" and kind == "stream":
                events = everything_chunked(connection)
                assert json.loads(events[-1].removeprefix(b"data: "))["error"]["code"] == "deadline_exceeded"
            elif way == "stalls":
                assert not everything(connection).endswith(b"0\r\n\r\n")
    assert [r for r in caplog.records if r.exc_info] == []


def test_an_offer_of_another_protocol_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAA\r\n"
    with listening(PATIENT, ScriptedEngine("fine")) as url, connected(url) as connection:
        connection.sendall(request().replace(b"Host: x\r\n", b"Host: x\r\n" + offer))
        assert b"fine" in connection.recv(65536)
    assert not caplog.records
