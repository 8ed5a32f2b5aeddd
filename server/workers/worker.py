"""One worker: `python -m heedful.server.workers.worker FD`, a server like any other on a port that it shares."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from contextlib import suppress

import uvloop

from heedful.prompts import PromptError
from heedful.retrieval import StoreError
from heedful.server.config import ConfigError
from heedful.server.observe.shared import share_figures
from heedful.server.serve import announce, prepared, serve, stop_start
from heedful.server.service import Service
from heedful.server.workers.wire import WorkerReport, encoded, unpacked
from heedful.strategies import HeedfulError

_TOLD = (ConfigError, PromptError, StoreError, HeedfulError)  # say by themselves what is wrong


def work(line: socket.socket) -> int:
    """Serves until it is told to stop, by a signal or by its supervisor's end; the process's exit status."""
    place = unpacked(line)
    share_figures(place.folder, place.number)

    def ready(service: Service, listener: socket.socket) -> None:
        if place.number == 0 and not place.again:
            announce(service, listener)
        line.sendall(encoded(WorkerReport()) + b"\n")

    signal.signal(signal.SIGTERM, stop_start)
    threading.Thread(target=_follow, args=(line,), name="supervisor", daemon=True).start()
    try:
        alignments = prepared(place.config, place.embedding)
        with socket.socket(fileno=place.listener) as listener:
            status: int = uvloop.run(serve(place.config, alignments, [], listener, ready, place))
    except _TOLD as error:
        line.sendall(encoded(WorkerReport(failed=str(error))) + b"\n")
        return 2
    gc.unfreeze()
    return status


def _follow(line: socket.socket) -> None:
    """Nobody would end a worker, or start it again, whose supervisor is gone."""
    with suppress(OSError):  # it was killed before it had read what this one said
        while line.recv(1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the supervisor's to act on, until uvicorn listens to it
    sys.exit(work(socket.socket(fileno=int(sys.argv[1]))))
