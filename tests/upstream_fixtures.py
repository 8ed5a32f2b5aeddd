"""A real HTTP upstream that does what a test tells it to, down to the byte, and heedful in front of it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from known_clients import let_in
from running import in_thread, listening
from through_ray import THROUGH_RAY, ray_replicas
from waiting import HANG

from heedful.prompts import Prompts
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.engines.served import ServedModel
from heedful.server.engines.upstream import start as upstreams
from heedful.server.observe.facts import Sink
from heedful.server.service import Service
from heedful.strategies import Resources

LIMIT = HANG  # seconds until a test that waits gives up


@dataclass
class Asked:
    """One request as the upstream saw it."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw)


class Opening:
    """An event that any thread sets and any event loop waits for, with no thread held by who waits."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def is_set(self) -> bool:
        return self._future.done()

    def set(self) -> None:
        if not self.is_set():
            self._future.set_result(None)

    async def wait(self) -> None:
        await asyncio.shield(asyncio.wrap_future(self._future))


class Gate:
    """Where a reply waits until the test opens it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = Opening()

    async def wait(self) -> None:
        self.reached.set()
        await self.open.wait()


@dataclass
class Reply:
    """An HTTP answer. `pieces` go out one by one, each chunk a write of its own; a Gate among them holds up the
    rest. With `cut` the connection is reset after the last, with `length` a Content-Length takes the place of
    chunks. `verbatim` is written as it is in place of all that, and the connection closed."""

    pieces: Iterable[bytes | Gate] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    length: bool = False
    verbatim: bytes = b""

    @classmethod
    def json(cls, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
        head = {"content-type": "application/json", **(headers or {})}
        return cls([json.dumps(value).encode()], status, head, length=True)

    @classmethod
    def sse(cls, *pieces: bytes | Gate, cut: bool = False, headers: dict[str, str] | None = None) -> Reply:
        return cls(pieces, 200, {"content-type": "text/event-stream", **(headers or {})}, cut=cut)


Script = Callable[[Asked], Reply | Awaitable[Reply]]


def completion(text: str = "Hello", **more: Any) -> dict[str, Any]:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    head = {"id": "chatcmpl-up", "object": "chat.completion", "created": 1, "model": "theirs"}
    return {**head, "choices": [choice], "usage": usage, **more}


def chunk(text: str | None = None, finish: str | None = None, **delta: Any) -> bytes:
    """One event of a streamed chat completion."""
    piece = delta | ({"content": text} if text is not None else {})
    head = {"id": "chatcmpl-up", "object": "chat.completion.chunk", "created": 1, "model": "theirs"}
    body = {**head, "choices": [{"index": 0, "delta": piece, "finish_reason": finish}]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def streamed(*texts: str) -> list[bytes]:
    return [chunk(role="assistant"), *(chunk(t) for t in texts), chunk(finish="stop"), DONE]


class ScriptedUpstream:
    """Listens on a port of its own. `asked` are the requests so far (but for the list of models), `hung_up` counts
    clients that left early, `connections` those that were opened, `ended` the answers that were written to their end.

    The next `hang_up_next` requests get no answer at all (with `resets`, a reset). `models`: what GET /models lists.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.script: Script = lambda asked: Reply.json(completion())
        self.asked: list[Asked] = []
        self.hung_up = threading.Semaphore(0)
        self.connections = 0
        self.ended = threading.Semaphore(0)
        self.hang_up_next = 0
        self.resets = False
        self.models: list[dict[str, Any]] = []

    def answers(self, script: Script | Reply) -> None:
        self.script = (lambda asked: script) if isinstance(script, Reply) else script

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        early = b""
        self.connections += 1
        try:
            while (asked := await _read(reader, early)) is not None:
                if asked.path == "/v1/models":  # the list of models, at start
                    await self._reply(asked, Reply.json({"object": "list", "data": self.models}), writer)
                    continue
                self.asked.append(asked)
                if self.hang_up_next:
                    self.hang_up_next -= 1
                    if self.resets:  # closing with no time to linger sends a reset
                        raw = writer.get_extra_info("socket")
                        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                work = asyncio.ensure_future(self._answer(asked, writer))
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not work.done() or isinstance(work.exception(), ConnectionError):
                    work.cancel()
                    self.hung_up.release()
                    return
                if not work.result():
                    gone.cancel()
                    return
                gone.cancel()
                # A quick client's next request may have begun already.
                (byte,) = await asyncio.gather(gone, return_exceptions=True)
                early = byte if isinstance(byte, bytes) else b""
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        result = self.script(asked)
        return await self._reply(asked, result if isinstance(result, Reply) else await result, writer)

    async def _reply(self, asked: Asked, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        if reply.verbatim:
            writer.write(reply.verbatim)
            await writer.drain()
            return False
        headers = dict(reply.headers)
        if reply.length:
            headers["content-length"] = str(sum(len(p) for p in reply.pieces if isinstance(p, bytes)))
        else:
            headers["transfer-encoding"] = "chunked"
        bare = asked.method == "HEAD" or reply.status in (204, 304)
        if bare and not reply.length:
            del headers["transfer-encoding"]
        head = f"HTTP/1.1 {reply.status} Scripted\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items())
        writer.write(head.encode() + b"\r\n")
        if bare:
            await writer.drain()
            return True
        for piece in reply.pieces:
            if isinstance(piece, Gate):
                await piece.wait()
                continue
            if not piece:
                continue
            writer.write(piece if reply.length else b"%x\r\n%s\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        if reply.cut:
            writer.transport.abort()
            return False
        if not reply.length:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        self.ended.release()
        return True


async def _read(reader: asyncio.StreamReader, early: bytes) -> Asked | None:
    try:
        head = (early + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        raw = b""
        while size := int((await reader.readline()).strip(), 16):
            raw += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, raw)


@pytest.fixture(scope="session")
def _upstream() -> Iterator[ScriptedUpstream]:
    made = ScriptedUpstream()

    @asynccontextmanager
    async def main() -> AsyncIterator[str]:
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()

    with in_thread(main) as (url, _):
        made.url = url
        yield made


@pytest.fixture
def upstream(_upstream: ScriptedUpstream) -> ScriptedUpstream:
    _upstream.reset()
    return _upstream


Proxy = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def proxy() -> Proxy:
    """`with proxy(Config(upstreams=[...]), engine, ...) as url`: heedful before upstreams (and further engines)."""

    @contextmanager
    def serve(
        config: Config,
        *engines: ServedModel,
        stores: Stores | None = None,
        sinks: Sequence[Sink] = (),
        clients: Mapping[str, Client] | None = None,
    ) -> Iterator[str]:
        @asynccontextmanager
        async def main() -> AsyncIterator[str]:
            async with AsyncExitStack() as stack:
                client_keys = config.api_key_env is None
                remote = await upstreams.start(config.upstreams, stack, client_keys=client_keys)
                alignments = Alignments(config, Resources(prompts=Prompts(*config.prompts), stores=stores))
                models = {e.model: e for e in (*engines, *remote)}
                service = Service(config, models, alignments, sinks=list(sinks))
                let_in(service.access, clients or {})
                async with listening(create_app(service)) as url:
                    yield url

        with in_thread(main) as (url, _):
            yield url

    return serve


@pytest.fixture(scope="session")
def proxied(
    _upstream: ScriptedUpstream, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """heedful before the scripted upstream, whose model `theirs` is called `ours` here; no retries."""
    if THROUGH_RAY:
        with ray_replicas(tmp_path_factory.mktemp("ray"), upstreams=[before(_upstream)]) as (url, _):
            yield url
        return
    with proxy(Config(upstreams=[before(_upstream)])) as url:
        yield url


def before(upstream: ScriptedUpstream, **more: Any) -> Any:
    """The configuration of an upstream whose capabilities are declared."""
    settings = {"models": {"ours": "theirs"}, "capabilities": ["chat", "completion"], "retries": 0}
    return {"url": upstream.url, **settings, **more}


def recording(folder: Path, upstream: ScriptedUpstream, **records: Any) -> Path:
    """A heedful.yaml of a server before it that keeps records as `records` says, in `folder`/stores."""
    config = folder / "heedful.yaml"
    settings = {
        "upstreams": [{"url": upstream.url, "models": ["theirs"], "capabilities": ["chat"]}],
        "tenants": {"default": {"records": records}},
        "stores": "stores",
        "starter_stores": False,
    }
    config.write_text(json.dumps(settings))
    return config
