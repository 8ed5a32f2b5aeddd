"""Servers for the tests: one with scripted engines in this process, and real ones with the bundled models."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path

import httpx
import psutil
import pytest
from known_clients import let_in
from openai import OpenAI
from running import serving_app
from waiting import HANG, until_ready

from heedful.prompts import Prompts
from heedful.retrieval.embedding.scripted import word_embedder
from heedful.retrieval.store.stores import Stores
from heedful.server.access.client import Client
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.cli.main import main
from heedful.server.config import Config
from heedful.server.engines.served import ServedModel
from heedful.server.observe.facts import Sink
from heedful.server.service import Service
from heedful.strategies import Resources
from heedful.strategies.scripted import ScriptedEngine

pytest_plugins = ["upstream_fixtures", "engine_fixtures", "page_fixtures", "store_fixtures", "together"]
# A terminal's lines are broken at its width, which a module may have read before a test says otherwise.
os.environ["COLUMNS"] = "250"
# What Python has made of our sources is kept for the hundreds of processes that tests start, each of which would make
# it anew: a second of a processor.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Every client reads all certificates that the machine trusts, for 30 ms of a processor: once is enough. (httpx2: of
# what the clients of OpenAI and Anthropic are made.)
for _package in ("httpx", "httpx2"):
    _transport = import_module(f"{_package}._transports.default")
    _transport.create_ssl_context = cache(_transport.create_ssl_context)  # type: ignore[attr-defined]
# httpx gives up after five seconds, which an answer may take on a busy machine.
for _kind in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _kind, HANG)


@pytest.fixture(scope="session")
def prompts() -> Prompts:
    return Prompts()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """The starter stores, embedded by words."""
    stores = Stores(tmp_path_factory.mktemp("stores"), word_embedder(dimension=256))
    stores.add_starters()
    yield stores
    stores.close()


@pytest.fixture(scope="session")
def resources(prompts: Prompts, stores: Stores) -> Resources:
    return Resources(prompts=prompts, stores=stores)


@contextmanager
def _serving(
    *engines: ServedModel,
    config: Config | None = None,
    stores: Stores | None = None,
    sinks: Sequence[Sink] = (),
    clients: Mapping[str, Client] | None = None,
) -> Iterator[str]:
    """A real HTTP server over the given engines, in a thread; yields its address."""
    config = config or Config()
    alignments = Alignments(config, Resources(prompts=Prompts(*config.prompts), stores=stores))
    service = Service(config, {e.model: e for e in engines}, alignments, sinks=list(sinks))
    let_in(service.access, clients or {})
    with serving_app(create_app(service)) as url:
        yield url


def _client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="test", max_retries=0, timeout=HANG)


@contextmanager
def _heedful_serve(*arguments: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`heedful serve ARGUMENTS` as a process on a port of its own, ended by SIGTERM; its messages go to `log`.

    Yields its address once it is ready.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "heedful.server", "serve", *arguments, "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "COLUMNS": "200"})
    url = f"http://127.0.0.1:{port}"
    try:
        until_ready(lambda: _healthy(url), psutil.Process(process.pid), log)
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(HANG)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """`with serving(engine, ..., config=Config(...), stores=...) as url`"""
    return _serving


@pytest.fixture(scope="session")
def heedful_serve() -> Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]:
    """`with heedful_serve("smollm2-135m-instruct", ..., log=path) as (url, process)`"""
    return _heedful_serve


@pytest.fixture
def heedful_here(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int | str | None, str]]]:
    """`heedful ARGUMENTS` in this process, which saves a start: its exit status, and what it wrote to stderr.

    For what ends before a server listens. What a start sets for good, in the environment and of signals, is undone.
    """
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(*arguments: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["heedful", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capfd.readouterr().err

    yield run
    os.environ.clear()
    os.environ.update(environment)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def client() -> Callable[[str], OpenAI]:
    """`client(url)`: the official client against a server."""
    return _client


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(lambda call: ["Hello", ", ", "world", "."])


@pytest.fixture
def scripted_server(scripted: ScriptedEngine) -> Iterator[str]:
    with _serving(scripted) as url:
        yield url
