"""The process that embeds for all workers: started when the first of them asks, and again where it has ended."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path

from heedful.retrieval.embedding.encoder import COMMAND
from heedful.server.log import logger

_PAUSE = 1.0  # seconds until one that can't be started is tried again, where somebody asks


class SharedEmbedding:
    """`at`: its socket, which is there from the start. For the event loop's thread."""

    def __init__(self, at: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(at))
        self._listener.listen()
        self._listener.setblocking(False)
        self._ending: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._watch()

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._start)

    def _start(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        fd = self._listener.fileno()
        try:
            process = subprocess.Popen(
                (*COMMAND, str(fd)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(fd,)
            )
        except OSError as error:  # too many processes, no memory
            logger.error("the embedding model's process can't be started: %s", error.strerror)
            self._turn_away()
            self._again = asyncio.get_running_loop().call_later(_PAUSE, self._watch)
            return
        self._ending = asyncio.create_task(self._until_ended(process))

    async def _until_ended(self, process: subprocess.Popen[bytes]) -> None:
        began, status = await asyncio.to_thread(_begun_and_ended, process)
        if status:
            logger.error("the embedding model's process has ended (status %d)", status)
        try:
            if not began:
                self._turn_away()
        finally:
            self._watch()

    def _turn_away(self) -> None:
        """Those who wait for one that can't start: they ask again, or tell why they can't go on."""
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:  # nobody is left, or there is no file for one more
                return

    def close(self) -> None:
        """The process ends by itself, with the last worker."""
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._ending is not None:
            self._ending.cancel()
        if self._again is not None:
            self._again.cancel()
        self._listener.close()


def _begun_and_ended(process: subprocess.Popen[bytes]) -> tuple[bool, int]:
    """Whether it came to answer anybody, and its status."""
    assert process.stdout is not None
    with process.stdout as out:
        return bool(out.read()), process.wait()
