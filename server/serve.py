"""`heedful serve`: from a configuration to a listening server, and down again."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from rich.text import Text

from heedful.prompts import Prompts
from heedful.server.access.access import Access
from heedful.server.access.file_keys import file_keys
from heedful.server.access.floor import Floors
from heedful.server.alignments import Alignments
from heedful.server.app import create_app
from heedful.server.caches import keep_caches_in_home
from heedful.server.config import Config, ConfigError
from heedful.server.edge.listening import uvicorn_config
from heedful.server.engines.served import ServedModel
from heedful.server.engines.upstream import start as upstreams
from heedful.server.engines.vllm import start as vllm
from heedful.server.models import bundled
from heedful.server.service import Service
from heedful.server.stores import open_stores
from heedful.server.terminal import bar, plain, terminal
from heedful.server.workers.wire import WorkerPlace
from heedful.strategies import HeedfulError, Resources

console = terminal(stderr=True)
# Seconds between looks at an engine's health, and for clients to see a failure before the process goes.
_WATCH, _FAREWELL = 0.5, 3.0
_LAST_ONES = 1.0  # seconds in which connections that wait already are taken when a server goes down


def run(config: Config, engine_options: list[str]) -> int:
    """Serves until SIGTERM or SIGINT (returns 0) or until an engine dies (returns 1).

    Raises ConfigError, PromptError or ModelUnavailable before anything heavy is started.
    """
    alignments = prepared(config)
    with bind(config) as listener:
        # Until uvicorn takes over, a signal ends the start at once.
        signal.signal(signal.SIGTERM, stop_start)
        status: int = uvloop.run(serve(config, alignments, engine_options, listener, announce))
    # vLLM's engine cleans up when it is collected, which fails with noise once the interpreter is half gone.
    gc.unfreeze()
    gc.collect()
    return status


def prepared(config: Config, embedding: Path | None = None) -> Alignments:
    """What a configuration asks for, once all is seen to that can be wrong with it before an engine is there.
    `embedding` as for `open_stores`.

    Raises ConfigError or PromptError.
    """
    file_keys(config)
    keep_caches_in_home()
    if config.model is None and not config.upstreams:
        raise ConfigError(
            "model: name one (a bundled name, a folder or a Hugging Face id), or an upstream to stand before"
        )
    stores = open_stores(config, embedding)
    resources = Resources(prompts=Prompts(*config.prompts), stores=stores)
    access = Access(config, stores.folder)  # what is wrong with keys is known before a model is loaded
    access.close()
    alignments = Alignments(config, resources)
    # So that a bad floor stops the start, the database's too, and not an engine's loading later.
    Floors(config, alignments).over_all_of(access)
    return alignments


async def serve(
    config: Config,
    alignments: Alignments,
    engine_options: list[str],
    listener: socket.socket,
    announce: Callable[[Service, socket.socket], None],
    place: WorkerPlace | None = None,
) -> int:
    """Starts the engines and serves in the running loop until it is told to stop; what `run` returns.

    `announce` is called once the server listens. `place`: among several workers.
    """
    async with started(config, alignments, engine_options, place) as service:
        server = Server(create_app(service), config, lambda: announce(service, listener))
        if threading.current_thread() is threading.main_thread():
            # uvicorn raises the signal again once it is down; that second one must not kill us before the engine is.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
        watch = asyncio.create_task(_watch(service, server))
        try:
            await server.serve(sockets=[listener])
        finally:
            watch.cancel()
        return 1 if service.failed else 0


@asynccontextmanager
async def started(
    config: Config, alignments: Alignments, engine_options: list[str], place: WorkerPlace | None = None
) -> AsyncIterator[Service]:
    """What requests need, its engines running in this loop. Raises ConfigError or ModelUnavailable."""
    async with AsyncExitStack() as stack:
        engines = await _engines(config, engine_options, stack)
        if stores := alignments.resources.stores:
            # After the engine: FAISS starts threads, after which no process may be forked off.
            # A proxy without retrieval stays small: it loads the embedding model (0.6 GB) at the first use.
            opens = stores.check_all if config.model is None else stores.open_all
            with bar("stores") as progress:
                await stores.call(opens, progress)
            stack.callback(stores.close)
        yield Service(config, engines, alignments, place=place)


def settle_heap() -> None:
    """What is here now stays to the end: no collection need look at torch's and vLLM's heap again."""
    gc.collect()
    gc.freeze()
    # Requests leave no rings of objects (tests/test_nothing_lingers.py), so that looking for some can be rare.
    gc.set_threshold(10_000, 20, 50)


async def _engines(config: Config, options: list[str], stack: AsyncExitStack) -> dict[str, ServedModel]:
    """The upstreams' models and our own, by name. Upstreams come first: what is wrong there is known at once."""
    with console.status("asking the upstreams …"):
        remote = await upstreams.start(config.upstreams, stack, client_keys=config.api_key_env is None)
    own = [await _start_vllm(config, options, stack)] if config.model is not None else []
    engines: dict[str, ServedModel] = {}
    for engine in (*own, *remote):
        if engine.model in engines:
            raise ConfigError(f"upstreams: two models are called {engine.model!r}; give one another name")
        engines[engine.model] = engine
    for model, others in config.fallbacks.items():
        for name in (model, *others):
            if name not in engines:
                raise ConfigError(f"fallbacks.{model}: unknown model {name!r}; known: {', '.join(engines)}")
    for model in config.prices:
        if model not in engines:
            raise ConfigError(f"prices.{model}: no such model; known: {', '.join(engines)}")
    return engines


class Server(uvicorn.Server):
    """uvicorn with our settings, which says when it is listening."""

    def __init__(self, app: Any, config: Config, announce: Callable[[], None]) -> None:
        super().__init__(uvicorn_config(app, config))
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        settle_heap()
        self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Who has connected is answered still; whoever comes later finds nobody, or another worker.
        until = asyncio.get_running_loop().time() + _LAST_ONES
        while select.select(sockets or (), (), (), 0)[0]:
            await asyncio.sleep(0.001)
            if asyncio.get_running_loop().time() > until:
                break
        await super().shutdown(sockets)


async def _start_vllm(config: Config, options: list[str], stack: AsyncExitStack) -> ServedModel:
    assert config.model is not None
    # Set before vLLM is imported and inherited by its processes. Whoever sets them otherwise is obeyed.
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    for variable, value in {**quiet, "VLLM_NO_USAGE_STATS": "1"}.items():
        os.environ.setdefault(variable, value)
    # Warnings of shared memory that the system cleans up, and of a rename inside torch.
    os.environ.setdefault(
        "PYTHONWARNINGS",
        "ignore::UserWarning:multiprocessing.resource_tracker,ignore::FutureWarning:vllm.triton_utils.dispatcher",
    )
    path, name = model_path(config)
    try:
        given, hosts = [*engine_flags(config.engine), *options], config.media_hosts
        args = vllm.engine_arguments(path, name, given, media_hosts=hosts)
        with console.status(Text(f"loading {name} …")):
            engine = await stack.enter_async_context(vllm.start(args, media_hosts=hosts))
    except ImportError as error:
        raise ConfigError(
            f"model: running a model here needs vLLM, which is not installed: {error}"
        ) from error
    except (OSError, ValueError, RuntimeError, HeedfulError) as error:
        # A wrong id, an option that does not fit the model, too little memory: vLLM's words, without its traceback.
        raise ConfigError(f"model: vLLM can't serve {path!r}: {vllm.reason(error)}") from error
    with console.status("warming up …"):
        await engine.warm_up()
    return engine


def model_path(config: Config) -> tuple[str, str]:
    """What vLLM loads, and the name clients use. Prepares a bundled model, with a progress bar."""
    model = config.model or ""
    if model in bundled.MODELS:
        with bar(f"preparing {model}") as progress:
            folder = bundled.prepare(bundled.MODELS[model], progress)
        return str(folder), config.served_name or model
    name = os.path.basename(os.path.normpath(model)) if os.path.isdir(model) else model
    return model, config.served_name or name


def engine_flags(engine: dict[str, Any]) -> list[str]:
    """The `engine:` section as vLLM's command line: `max_model_len: 4096` → `--max-model-len 4096`."""
    import msgspec

    flags: list[str] = []
    for key, value in engine.items():
        flag = key.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)]
        elif isinstance(value, dict):
            flags += [f"--{flag}", msgspec.json.encode(value).decode()]
        else:
            flags += [f"--{flag}", str(value)]
    return flags


async def _watch(service: Service, server: uvicorn.Server) -> None:
    """Notices the death of an engine: /health turns bad and requests get 503, then the process ends."""
    while True:
        await asyncio.sleep(_WATCH)
        if failed := service.failed:
            break
    console.print(plain(failed, "red"))
    await asyncio.sleep(_FAREWELL)
    server.should_exit = True


def bind(config: Config) -> socket.socket:
    """Takes the port before the model is loaded, so that a port in use is known at once. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"can't listen on {config.host}:{config.port}: {error.strerror}") from error
    return listener


def announce(service: Service, listener: socket.socket) -> None:
    """Tells who started a server where it listens, and what it serves."""
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    console.print(Text.assemble(("heedful is listening", "green"), " on ", (f"{url}/v1", "bold")))
    if service.config.page:
        console.print(Text.assemble("  the page: ", (f"{url}/", "bold")))
    default = service.alignments.default.name
    for name, engine in service.engines.items():
        note = f"; {engine.note}" if engine.note else ""
        can = ", ".join(engine.capabilities.names)
        line = Text.assemble("  model ", plain(name, "bold"), f" ({can}", plain(note), ")")
        console.print(line, soft_wrap=True)
        if engine.tools:
            console.print(plain(f"  tools of {name}: {engine.tools}"), soft_wrap=True)
    console.print(f"  alignments: {', '.join(service.alignments.names())}; default: {default}")


def stop_start(*_: object) -> None:
    """What a signal does before a server listens."""
    sys.exit(0)
