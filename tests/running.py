"""Servers in this process, each with an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import uvicorn
from waiting import HANG

T = TypeVar("T")


def at_once(*calls: Callable[[], T]) -> list[T]:
    """What each returns. An engine answers several requests in about the time of one."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [asked.result() for asked in [pool.submit(call) for call in calls]]


class Started(uvicorn.Server):
    """uvicorn, which says when it listens, and goes down without waiting for the next tenth of a second."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._told()

    def stop(self) -> None:
        """From any thread."""
        self.should_exit = True
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), 0.1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(0.001)
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()


@contextmanager
def serving_app(app: Any) -> Iterator[str]:
    """Serves an ASGI application as uvicorn does by itself, in a thread; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio does so by itself for sockets that name their protocol only: without it each answer takes 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = threading.Event()
        server = Started(uvicorn.Config(app, log_level="warning", http="httptools"), started.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert started.wait(HANG)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.stop()
            thread.join(HANG)


@contextmanager
def in_thread(
    main: Callable[[], AbstractAsyncContextManager[T]],
) -> Iterator[tuple[T, Callable[[Coroutine[Any, Any, Any]], Any]]]:
    """Runs an async context manager in a loop of its own, in a thread of its own; yields what it yields, and a
    function that runs a coroutine there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = main()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(HANG)

    try:
        made = run(context.__aenter__())
        try:
            yield made, run
        finally:
            run(context.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(HANG)
        loop.close()


@asynccontextmanager
async def listening(app: Any) -> AsyncIterator[str]:
    """Serves an ASGI application in this loop; yields its address."""
    started = asyncio.Event()
    server = Started(uvicorn.Config(app, log_level="warning", http="httptools", ws="none"), started.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # asyncio sets it only on sockets that name their protocol; without it each answer takes 40 ms longer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await started.wait()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.stop()
        await serving
