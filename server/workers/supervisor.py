"""Starts the workers of a server, starts those again that are killed, and stops them all."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from heedful.server.config import Config, ConfigError
from heedful.server.limits.table import SharedTable
from heedful.server.log import logger, one_line
from heedful.server.serve import bind, console
from heedful.server.workers.embedding import SharedEmbedding
from heedful.server.workers.wire import EMBEDDING, LIMITS, WorkerPlace, WorkerReport, decoded, packed

COMMAND = (sys.executable, "-m", "heedful.server.workers.worker")
_STEADY = 10.0  # seconds after which a worker that ends was none that can't serve
_AT_FIRST, _AT_MOST = 0.5, 30.0  # seconds until one that could not be started is tried again


class WorkerFailed(Exception):
    """Says why a worker can't start."""


class WorkerProcess:
    """One of them, as its supervisor has it. Raises WorkerFailed."""

    def __init__(self, place: WorkerPlace) -> None:
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                # In a group of its own: what a terminal sends to the supervisor's is the supervisor's to pass on.
                self.process = subprocess.Popen(
                    (*COMMAND, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), place.listener),
                    process_group=0,
                )
        except OSError as error:
            raise WorkerFailed(f"no process can be started: {error.strerror}") from error
        self._line, self._place = ours, place

    async def ready(self) -> None:
        """Once it listens. Raises WorkerFailed."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._line)
        said = b""
        with suppress(ConnectionError):
            self._writer.write(packed(self._place))
            said = await self._reader.readline()
        if not said.endswith(b"\n"):
            raise WorkerFailed(f"it ended before it was ready (status {await self.ended()})")
        report: WorkerReport = decoded(said)
        if report.failed is not None:
            await self.ended()
            raise WorkerFailed(report.failed)

    async def ended(self) -> int:
        """Its exit status, once it has one."""
        with suppress(ConnectionError):
            await self._reader.read()
        self._writer.close()
        return await asyncio.to_thread(self.process.wait)  # it has let go of the line, and ends in a moment

    def tell(self, number: int) -> None:
        """Sends it a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)


class Supervisor:
    """Of one server. `listener`: bound; all workers take their connections from it, so that none which waits is lost
    with a worker that ends."""

    def __init__(self, config: Config, listener: socket.socket, folder: Path) -> None:
        self._config, self._listener, self._folder = config, listener, folder
        self._running: dict[int, WorkerProcess] = {}
        self._serving: set[int] = set()
        self._complete = False
        """Whether all have been ready once."""
        self._first, self._stopping = asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Until SIGTERM or SIGINT (returns 0). Raises ConfigError where a worker can't start, and none serves."""
        loop = asyncio.get_running_loop()
        for told in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(told, self._stop, told)
        try:
            async with asyncio.TaskGroup() as keeping:
                # The first alone: it makes what is missing, and finds what is wrong.
                keeping.create_task(self._keep(0))
                await self._first.wait()
                for number in range(1, self._config.workers):
                    keeping.create_task(self._keep(number))
        except* WorkerFailed as failures:
            raise ConfigError(str(failures.exceptions[0])) from None
        return 0

    async def _keep(self, number: int) -> None:
        """One place, and who is in it, until all are to stop."""
        pause, again = 0.0, False
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            place = WorkerPlace(self._config, number, again, self._listener.fileno(), self._folder)
            worker: WorkerProcess | None = None
            try:
                worker = self._running[number] = WorkerProcess(place)
                await worker.ready()
                self._entered(number)
                began = clock()
                status = await worker.ended()
            except WorkerFailed as failure:
                if self._stopping.is_set():
                    return
                if not self._complete or not self._serving:
                    raise WorkerFailed(f"worker {number} can't start: {failure}") from failure
                pause = _longer(pause)
                told = one_line(str(failure))
                logger.error("worker %d can't start: %s; tried again in %g s", number, told, pause)
            else:
                if not self._stopping.is_set():
                    logger.error("worker %d has ended (status %d); it is started again", number, status)
                # Whatever has ended one at once may end the next one as soon.
                pause = 0.0 if clock() - began > _STEADY else _longer(pause)
            finally:
                self._serving.discard(number)
                if worker is not None:
                    worker.tell(signal.SIGTERM)  # where another's failure ends this task
                    await asyncio.to_thread(worker.process.wait)
                self._forget(number)
            again = True
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _forget(self, number: int) -> None:
        """What ran in a worker that is no more."""
        mark_process_dead(number, str(self._folder))  # type: ignore[no-untyped-call]
        if (table := self._folder / LIMITS).exists():
            SharedTable(table, self._config.workers, number).close()

    def _entered(self, number: int) -> None:
        self._serving.add(number)
        self._first.set()
        if len(self._serving) == self._config.workers:
            if not self._complete:
                pids = ", ".join(str(self._running[each].process.pid) for each in sorted(self._running))
                console.print(f"  workers: {pids}")
            self._complete = True

    def _stop(self, number: int) -> None:
        """A second Ctrl-C does not wait for what runs."""
        told = signal.SIGINT if self._stopping.is_set() and number == signal.SIGINT else signal.SIGTERM
        self._stopping.set()
        self._first.set()
        self._listener.close()
        for worker in self._running.values():
            worker.tell(told)


def _longer(pause: float) -> float:
    """How many seconds the next pause takes."""
    return min(2 * pause, _AT_MOST) or _AT_FIRST


def supervise(config: Config) -> int:
    """Serves with `config.workers` processes; as `serve.run` otherwise. Raises ConfigError."""
    if config.model is not None:
        raise ConfigError(
            f"workers: {config.workers} processes would each load {config.model} for themselves, and its engine "
            "takes all requests at once as it is; serve it with one (workers: 1), or by itself on another port, and "
            "stand before it with --upstream and as many workers as you like"
        )
    admission = config.admission
    if admission is not None and min(admission.running, admission.per_tenant or 64) < config.workers:
        raise ConfigError(
            f"admission: running and per_tenant are shared out among {config.workers} workers, each of which needs "
            "one at least; raise them, or start fewer"
        )
    with bind(config) as listener, tempfile.TemporaryDirectory(prefix="heedful-workers-") as folder:
        return asyncio.run(_supervised(config, listener, Path(folder)))


async def _supervised(config: Config, listener: socket.socket, folder: Path) -> int:
    with closing(SharedEmbedding(folder / EMBEDDING)):
        return await Supervisor(config, listener, folder).run()
