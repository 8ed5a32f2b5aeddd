"""The process that embeds for all workers: started when the first of them asks, and again where it has ended."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from pathlib import Path

from heedful.retrieval.embedding.encoder import COMMAND
from heedful.server.log import logger


class SharedEmbedding:
    """`at`: its socket, which is there from the start. For the event loop's thread."""

    def __init__(self, at: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(at))
        self._listener.listen()
        self._listener.setblocking(False)
        self._ending: asyncio.Task[None] | None = None
        self._watch()

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._listener, self._start)

    def _start(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        fd = self._listener.fileno()
        process = subprocess.Popen(
            (*COMMAND, str(fd)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=(fd,)
        )
        self._ending = asyncio.create_task(self._until_ended(process))

    async def _until_ended(self, process: subprocess.Popen[bytes]) -> None:
        if status := await asyncio.to_thread(process.wait):
            logger.error("the embedding model's process has ended (status %d)", status)
            self._turn_away()
        self._watch()

    def _turn_away(self) -> None:
        """Those who wait for it: they ask again, or tell why they can't go on."""
        while True:
            try:
                self._listener.accept()[0].close()
            except BlockingIOError:
                return

    def close(self) -> None:
        """It ends by itself, with the last worker."""
        asyncio.get_running_loop().remove_reader(self._listener)
        if self._ending is not None:
            self._ending.cancel()
        self._listener.close()
