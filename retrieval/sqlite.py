"""What our SQLite files have in common, whatever they hold: how they are opened, written and told apart.

Who may make a file, what waits how long, and what an error means to whom is each one's own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple


class Layout(NamedTuple):
    """What a file says of itself: which program's it is (four letters, as a number), and how it is laid out."""

    application: int = 0
    version: int = 0

    @classmethod
    def of(cls, db: sqlite3.Connection) -> Layout:
        """A file's; zeros of a new one."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        return cls(application, version)

    def write(self, db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA application_id={self.application}")
        db.execute(f"PRAGMA user_version={self.version}")


def opened(path: Path, *, wait: float) -> sqlite3.Connection:
    """A connection to a file that is there, and never one that makes it. Any thread may use it, one at a time.

    `wait`: seconds for the transactions of others.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that is done in it, or none. It waits at its beginning for who writes, and nowhere else."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with suppress(sqlite3.Error):  # what went wrong before is what is told
                db.execute("ROLLBACK")
        raise


def rewrite(db: sqlite3.Connection) -> bool:
    """Writes a database anew, so that no byte of what was deleted from it stays in its file or its log.

    Deleting alone leaves copies of cells that SQLite has moved, whatever it overwrites (`secure_delete`): nothing but
    new pages has none. False: another process has read the old bytes for as long as this connection waits, so that it
    is still to be done.
    """
    db.execute("VACUUM")
    return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
