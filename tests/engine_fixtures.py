"""Real engines with the bundled models, three for the whole run, and the order in which tests use them.

They compute in float32: its last digits never decide between two tokens, whatever the processor, the batch and the
part of a prompt that came from the cache. What a server does without being told a dtype: see `test_dtype.py`.
"""

from __future__ import annotations

import copy
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from running import in_thread, listening

from heedful.server import bundled

Serve = Callable[..., AbstractContextManager[tuple[str, subprocess.Popen[bytes]]]]
CHAT_MODEL, BASE_MODEL = "smollm2-135m-instruct", "gemma-3-270m"
OPTIONS = ("--max-model-len", "4096", "--dtype", "float32")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")

HOUSE = """
model: smollm2-135m-instruct
engine: {max_model_len: 4096, dtype: float32, enable_auto_tool_choice: true, tool_call_parser: hermes}
prompts: [prompts]
alignments:
  house: [{principles: {set: house}}]
"""


@dataclass
class Server:
    """`heedful serve` with a model."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="session")
def models() -> dict[str, Path]:
    """The bundled models' folders, prepared before any server waits for them."""
    return {name: bundled.prepare(bundled.MODELS[name]) for name in (CHAT_MODEL, BASE_MODEL)}


@pytest.fixture(scope="session")
def chat_process(
    heedful_serve: Serve, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The bundled chat model, with a tool parser, from a configuration file with prompts of its own."""
    folder = tmp_path_factory.mktemp("chat")
    (folder / "prompts" / "principles").mkdir(parents=True)
    (folder / "prompts" / "principles" / "house.v3.md").write_text(
        "{% block system %}Speak of the sea.{% endblock %}"
    )
    (folder / "heedful.yaml").write_text(HOUSE)
    log = folder / "log"
    with heedful_serve("--config", str(folder / "heedful.yaml"), log=log) as (url, process):
        yield Server(url, process, log)


@pytest.fixture(scope="session")
def base_process(
    heedful_serve: Serve, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The bundled base model."""
    log = tmp_path_factory.mktemp("base") / "log"
    with heedful_serve(BASE_MODEL, *OPTIONS, log=log) as (url, process):
        yield Server(url, process, log)


@pytest.fixture(scope="session")
def chat_server(chat_process: Server) -> str:
    """The address of the bundled chat model."""
    return chat_process.url


@pytest.fixture(scope="session")
def base_server(base_process: Server) -> str:
    """The address of the bundled base model."""
    return base_process.url


@dataclass
class InProcess:
    """The chat model's engine in a loop of its own in this process, with vLLM's own OpenAI server before it."""

    engine: Any
    url: str
    run: Callable[[Coroutine[Any, Any, None]], None]
    """Runs a coroutine in the engine's loop."""


@pytest.fixture(scope="session")
def in_process(models: dict[str, Path]) -> Iterator[InProcess]:
    # What vLLM sets for its processes is not for those that other tests start.
    before = dict(os.environ)
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}

    @asynccontextmanager
    async def main() -> AsyncIterator[tuple[Any, str]]:
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state
        from vllm.entrypoints.launchers.app import build_app

        from heedful.server.engines import vllm

        args = vllm.engine_arguments(str(models[CHAT_MODEL]), CHAT_MODEL, [*OPTIONS, *TOOLS])
        theirs = copy.deepcopy(args)  # ours is changed by the start
        async with vllm.start(args) as engine:
            client = engine._client
            tasks = await client.get_supported_tasks()
            app = build_app(theirs, tasks, client.model_config)
            await init_app_state(client, app.state, theirs, tasks)
            async with listening(app) as url:
                yield engine, url

    try:
        with in_thread(main) as ((engine, url), run):
            os.environ.clear()
            os.environ.update(before)
            yield InProcess(engine, url, run)
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def vllm_server(in_process: InProcess) -> str:
    """vLLM's own OpenAI server on the chat model with the same options: what ours is compared with."""
    return in_process.url


# -- which test when


@pytest.hookimpl(optionalhook=True)  # where pytest-xdist is not installed nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadscope`: files that use an engine share one worker, every other goes where there is room.

    By file, since the process that deals them out has collected nothing, and `--dist loadgroup` of pytest-xdist 3.8
    writes its groups to where pytest 9.2 no longer reads them.
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByEngine(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "engine" if _uses_engine(config.rootpath / path) else path

    return ByEngine(config, log)


@cache
def _uses_engine(file: Path) -> bool:
    return "pytest.mark.engine" in file.read_text()


class Order:
    """One engine's tests together, then the one that ends it: the next has the machine to itself."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    needs = set(getattr(item, "fixturenames", ()))
    ends = item.get_closest_marker("ends_server") is not None
    if needs & {"chat_process", "in_process"}:
        return 5 if ends else 4
    if "base_process" in needs:
        return 3 if ends else 2
    return 1 if item.get_closest_marker("engine") else 0


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Order())
