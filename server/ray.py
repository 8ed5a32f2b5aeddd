"""heedful on Ray Serve: replicas on any number of machines, each the same application as `heedful serve`.

`heedful serve --ray heedful.yaml`, or by Ray's own means: `serve run heedful.server.ray:app config=heedful.yaml`, and
the same import path in the configuration of `serve deploy` or of a RayService (docs/operate/ray.md).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp

from heedful.server.app import create_app
from heedful.server.config import Config, ConfigError, load
from heedful.server.serve import bind, console, model_path, prepared, settle_heap, started, stop_start
from heedful.server.service import Service
from heedful.server.terminal import plain

os.environ.setdefault(
    "RAY_USAGE_STATS_ENABLED", "0"
)  # before Ray is imported, which otherwise tells its makers
try:
    import ray
    from ray import serve
except ImportError as missing:
    raise ConfigError(f"--ray needs Ray: pip install 'heedful[ray]' ({missing})") from missing

APPLICATION = "heedful"
"""The name of the Serve application and of its only deployment."""
# Ray's own default for a replica is 5 requests at once, each of which may be one short wait for an upstream.
_AT_ONCE = 1000
# Seconds beyond `shutdown_grace` until Ray kills a replica: its engine and its files are closed in them.
_FAREWELL = 5
_LOOK = 0.1  # seconds between looks at what Ray ends


class BuilderArguments(BaseModel):
    """What `serve run heedful.server.ray:app` takes, and `args:` in a Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    config: Path | dict[str, Any]
    """A heedful.yaml where the application is built, or its settings themselves."""


def app(arguments: BuilderArguments) -> serve.Application:
    """Builds the application, for Ray. Raises ConfigError."""
    given = arguments.config
    return application(load(given.resolve(), {}) if isinstance(given, Path) else load(None, given))


def application(config: Config, engine_options: list[str] | None = None) -> serve.Application:
    """The Serve application of a configuration, whose section `ray` says what is not as usual. Raises ConfigError."""
    options = {
        "name": APPLICATION,
        "max_ongoing_requests": _AT_ONCE,
        "graceful_shutdown_timeout_s": config.shutdown_grace + _FAREWELL,
        **config.ray,
    }
    try:
        return serve.deployment(**options)(serve.ingress()(Replica)).bind(config, engine_options or [])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"ray: {error}") from error


class Replica:
    """What Ray starts: engines and stores, and the application over them, all in one loop."""

    def __init__(self, config: Config, engine_options: list[str]) -> None:
        self._config, self._engine_options = config, engine_options
        self._service: Service | None = None
        self._ending = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """By Ray, once; it runs the application's lifespan. What is raised here, it tells whoever deployed."""
        ready: asyncio.Future[Service] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(ready))
        await asyncio.wait((ready, self._life), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            await self._life  # which raises
        self._service = ready.result()
        return create_app(self._service)

    async def _live(self, ready: asyncio.Future[Service]) -> None:
        """Starts and ends everything in one task, as context managers may want it."""
        async with started(self._config, prepared(self._config), self._engine_options) as service:
            settle_heap()
            ready.set_result(service)
            await self._ending.wait()

    def check_health(self) -> None:
        """By Ray, every few seconds: it starts another replica in the place of one that raises."""
        if self._service is not None and (failed := self._service.failed):
            raise RuntimeError(failed)

    async def __del__(self) -> None:
        """By Ray, after the last answer and the lifespan's end."""
        self._ending.set()
        if self._life is not None:
            await self._life


def run(config: Config, engine_options: list[str]) -> int:
    """Deploys to the cluster that RAY_ADDRESS names, or to one of this machine's own that ends with this process;
    serves until SIGTERM or SIGINT. What runs then is finished, for `shutdown_grace` seconds at most.

    Raises ConfigError, PromptError or ModelUnavailable before Ray is started, ConfigError where Ray can't do it.
    """
    if config.port == 0:
        raise ConfigError("port: name one, of Ray's proxies none can look for a free one")
    deployed = application(config, engine_options)
    prepared(config)
    if config.model is not None:
        model_path(config)  # made once, and not by each replica
    if "RAY_ADDRESS" not in os.environ:  # there a proxy may listen already
        bind(config).close()
    signal.signal(signal.SIGTERM, stop_start)  # until all is there, a signal ends the start at once
    with console.status("starting Ray …"):
        ray.init(namespace=APPLICATION, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            with console.status("starting replicas …"):
                serve.run(deployed, name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise ConfigError(f"Ray could not start it: {error}") from error
        console.print(
            plain(f"heedful is listening on http://{config.host}:{config.port}/v1, through Ray", "green")
        )
        _told_to_stop().wait()
        # Lets running answers end, for which the proxies have to stay. It gives up waiting after a minute by itself.
        serve.delete(APPLICATION, _blocking=False)
        while APPLICATION in serve.status().applications:
            time.sleep(_LOOK)
    finally:
        ray.shutdown()
    return 0


def _told_to_stop() -> threading.Event:
    """Set once this process is told to stop."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
