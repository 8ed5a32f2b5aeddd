"""The process that makes a server's records and writes them: `python -m heedful.server.records.writing FOLDER`.

It ends when its server does, killed or not, and writes before what that has still told it.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import sys
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path

from heedful.retrieval.errors import StoreError
from heedful.server.framing import receive, send
from heedful.server.records.file import RecordsFile
from heedful.server.records.record import Entry, entry
from heedful.server.records.wire import (
    Batch,
    Erase,
    Expire,
    Keep,
    Work,
    WriterReply,
    decoded,
    pack,
    read_batch,
)

_IN, _OUT = 0, 1  # its standard input and output
_LOOK = 1.0  # seconds between looks whether the server is there: others that it started may hold the pipe


class Writing:
    """The file, opened where it has to be: at first, after a failure, and where another has taken its name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._opened: tuple[RecordsFile, sqlite3.Connection] | None = None
        self._inode: int | None = None

    def take(self, batch: Batch) -> WriterReply:
        """Writes, and does what is to be done."""
        reply = WriterReply(lost=[])
        try:
            file, db = self._file()
            if entries := self._entries(batch, file, reply.lost):
                file.write(db, entries, again=batch.again)
        except (StoreError, sqlite3.Error) as error:
            self.close()
            return WriterReply(failed=_told(error, self._folder))
        if batch.work is not None:
            try:
                reply.done = _do(batch.work, file, db)
            except (StoreError, sqlite3.Error) as error:
                reply.refused = _told(error, file.path)
        return reply

    def close(self) -> None:
        self._opened = None
        self._stack.close()

    def _file(self) -> tuple[RecordsFile, sqlite3.Connection]:
        if self._opened is not None and self._opened[0].inode() != self._inode:
            self.close()
        if self._opened is None:
            file = RecordsFile(self._folder)
            self._opened = file, self._stack.enter_context(file.opened())
            self._inode = file.inode()
        return self._opened

    def _entries(self, batch: Batch, file: RecordsFile, lost: list[str]) -> list[Entry]:
        made = []
        for data in batch.materials:
            try:
                made.append(entry(*decoded(data), file.digests))
            except Exception:  # a body that nothing can write, say; the others go on
                lost.append(traceback.format_exc())
        return made


def _do(work: Work, file: RecordsFile, db: sqlite3.Connection) -> int:
    match work:
        case Erase(tenant, user, by):
            return file.erase(db, tenant, user, by)
        case Keep(days, now):
            for tenant, kept in days.items():
                file.keep(db, tenant, kept)
            return int(file.expire(db, now))
        case Expire(now, everything):
            more = file.expire(db, now)
            while more and everything:
                more = file.expire(db, now)
            return int(more)


def _told(error: Exception, where: Path) -> str:
    return f"{where}: {error}" if isinstance(error, sqlite3.Error) else str(error)


def _come(server: int) -> bool:
    """Whether there is more, once that is known."""
    while not select.select([_IN], [], [], _LOOK)[0]:
        if os.getppid() != server:
            return False
    return True


def main() -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # which those who stop a server send to all that it started
        signal.signal(each, signal.SIG_IGN)
    server, writing = os.getppid(), Writing(Path(sys.argv[1]))
    with suppress(EOFError):
        while _come(server):
            reply = writing.take(read_batch(receive(_IN)))
            with suppress(BrokenPipeError):  # a server that was killed does not hear it
                send(_OUT, pack(reply))
    writing.close()


if __name__ == "__main__":
    main()
