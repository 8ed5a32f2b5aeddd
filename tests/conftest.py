"""Servers for the tests: one with scripted engines in this process, and real ones with the bundled models."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from openai import OpenAI

from heedful.prompts import Prompts
from heedful.retrieval.scripted import word_embedder
from heedful.retrieval.stores import Stores
from heedful.server import bundled
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.config import Config
from heedful.server.service import Service
from heedful.strategies import Engine, Resources
from heedful.strategies.scripted import ScriptedEngine

CHAT_MODEL = "smollm2-135m-instruct"
pytest_plugins = ["upstream_fixtures"]
START_LIMIT = 240  # seconds; a model is loaded in 40 on two quiet cores


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
def _serving(*engines: Engine, config: Config | None = None, stores: Stores | None = None) -> Iterator[str]:
    """A real HTTP server over the given engines, in a thread; yields its address."""
    config = config or Config()
    alignments = Alignments(config, Resources(prompts=Prompts(*config.prompts), stores=stores))
    app = create_app(Service(config, {e.model: e for e in engines}, alignments))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http="httptools"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        _wait_until(lambda: _healthy(url), thread.is_alive)
        try:
            yield url
        finally:
            server.should_exit = True
            thread.join(30)


def _client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="test", max_retries=0, timeout=120)


@contextmanager
def _heedful_serve(*arguments: str, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`heedful serve ARGUMENTS` as a process of its own; yields its address once it is ready."""
    with _process([sys.executable, "-m", "heedful.server", "serve", *arguments], log) as running:
        yield running


@contextmanager
def _process(
    command: list[str], log: Path, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server on a free port of its own, ended by SIGTERM; its messages go to `log`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    env = {**os.environ, "COLUMNS": "200", **environment}
    with log.open("wb") as out:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=out, stderr=out, env=env)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until(lambda: _healthy(url), lambda: process.poll() is None, lambda: log.read_text())
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _wait_until(
    ready: Callable[[], bool], alive: Callable[[], bool], tell: Callable[[], str] = lambda: ""
) -> None:
    until = time.monotonic() + START_LIMIT
    while not ready():
        assert alive(), f"the server ended before it was ready:\n{tell()}"
        assert time.monotonic() < until, f"the server was not ready in time:\n{tell()}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """`with serving(engine, ..., config=Config(...), stores=...) as url`"""
    return _serving


@pytest.fixture(scope="session")
def heedful_serve() -> Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]:
    """`with heedful_serve("smollm2-135m-instruct", ..., log=path) as (url, process)`"""
    return _heedful_serve


@pytest.fixture(scope="session")
def client() -> Callable[[str], OpenAI]:
    """`client(url)`: the official client against a server."""
    return _client


CHAT_OPTIONS = ("--max-model-len", "4096", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bundled chat model, with a tool parser, as a user would serve it."""
    log = tmp_path_factory.mktemp("chat") / "server.log"
    with _heedful_serve(CHAT_MODEL, *CHAT_OPTIONS, log=log) as (url, _):
        yield url


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own OpenAI server on the same model with the same options: what ours is compared with."""
    folder = str(bundled.prepare(bundled.MODELS[CHAT_MODEL]))
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += [
        "--model",
        folder,
        "--served-model-name",
        CHAT_MODEL,
        "--enforce-eager",
        *CHAT_OPTIONS,
    ]
    # What heedful sets for itself on a CPU.
    alike = {"VLLM_CPU_KVCACHE_SPACE": "2", "TORCH_COMPILE_DISABLE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    with _process(command, tmp_path_factory.mktemp("vllm") / "server.log", **alike) as (url, _):
        yield url


@pytest.fixture(scope="session")
def base_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The bundled base model."""
    log = tmp_path_factory.mktemp("base") / "server.log"
    with _heedful_serve("gemma-3-270m", "--max-model-len", "4096", log=log) as (url, _):
        yield url


@pytest.fixture
def scripted() -> ScriptedEngine:
    return ScriptedEngine(lambda call: ["Hello", ", ", "world", "."])


@pytest.fixture
def scripted_server(scripted: ScriptedEngine) -> Iterator[str]:
    with _serving(scripted) as url:
        yield url
