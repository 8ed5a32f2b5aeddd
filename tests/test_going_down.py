"""A server goes down: what runs is answered, and so is what is on its way on a connection that was idle."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest
import uvicorn
from waiting import HANG

from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.edge.listening import uvicorn_config
from heedful.server.service import Service
from heedful.strategies import Resources
from heedful.strategies.scripted import ScriptedEngine


@contextmanager
def _listening() -> Iterator[tuple[uvicorn.Server, tuple[str, int], threading.Thread]]:
    config = Config()
    service = Service(config, {"scripted": ScriptedEngine("Hello")}, Alignments(config, Resources(Prompts())))
    server = uvicorn.Server(uvicorn_config(create_app(service), config))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield server, address, thread
        server.should_exit = True
        thread.join(HANG)


def _ask(client: socket.socket) -> tuple[int, str | None]:
    """The answer's status, and what it says of the connection."""
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    client.sendall(head + body)
    answer = HTTPResponse(client)
    answer.begin()
    assert b"Hello" in answer.read()
    return answer.status, answer.getheader("connection")


def test_a_request_on_its_way_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.server.edge.listening._LINGER", HANG)
    with _listening() as (server, address, thread):
        with socket.create_connection(address) as used, socket.create_connection(address) as new:
            assert _ask(used) == (200, None)
            server.should_exit = True
            while _takes(address):
                pass
            for client in (used, new):
                assert _ask(client) == (200, "close")
                assert client.recv(1) == b""
        thread.join(HANG)
        assert not thread.is_alive()


def test_an_idle_connection_keeps_nobody_up() -> None:
    with _listening() as (server, address, thread), socket.create_connection(address) as idle:
        _ask(idle)
        server.should_exit = True
        assert idle.recv(1) == b""
        thread.join(HANG)
        assert not thread.is_alive()


def _takes(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return False
    return True
