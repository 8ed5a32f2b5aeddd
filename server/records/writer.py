"""The process that writes a server's records, as its server has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from heedful.retrieval.errors import StoreError
from heedful.server.framing import receive, send
from heedful.server.log import logger
from heedful.server.records.wire import Batch, WriterReply, pack, read_reply

COMMAND = (sys.executable, "-m", "heedful.server.records.writing")
_ENDED = (OSError, EOFError, msgspec.DecodeError)  # it takes nothing, says nothing, or stopped in mid-reply
_ENDING = 10.0  # seconds for it to end, once nothing is left to do


class RecordsWriter:
    """Started with the first batch, and anew where it has ended. Not for several threads at once. Blocks.

    In a process of its own, since what it does for an answer is half of what the server does for it: in a thread it
    would take the interpreter from the event loop, and that from it, several times a request.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, batch: Batch) -> WriterReply:
        """Raises StoreError where the batch is not written; where its process has ended twice, nobody knows."""
        for last in (False, True):
            try:
                reply = self._ask(self._process or self._start(), batch)
                break
            except _ENDED as error:
                self.end()
                if last:
                    raise StoreError(f"the process that writes them has ended: {error}") from error
                batch = Batch(batch.materials, batch.work, again=True)
        if reply.failed is not None:
            raise StoreError(reply.failed)
        return reply

    def _ask(self, process: subprocess.Popen[bytes], batch: Batch) -> WriterReply:
        assert process.stdin is not None and process.stdout is not None
        send(process.stdin.fileno(), pack(batch))
        return read_reply(receive(process.stdout.fileno()))

    def _start(self) -> subprocess.Popen[bytes]:
        # In a group of its own: what a terminal sends to the server's ends it before it can look away.
        self._process = subprocess.Popen(
            (*COMMAND, str(self._folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,
        )
        return self._process

    def end(self) -> None:
        """Waits until it has."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            logger.error("the process that writes records does not end; it is killed")
            process.kill()
            process.wait()
