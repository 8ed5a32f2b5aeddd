"""What all of our SQLite files need done in the same way."""

from __future__ import annotations

import sqlite3


def rewrite(db: sqlite3.Connection) -> bool:
    """Writes a database anew, so that no byte of what was deleted from it stays in its file or its log.

    Deleting alone leaves copies of cells that SQLite has moved, whatever it overwrites (`secure_delete`): nothing but
    new pages has none. False: another process has read the old bytes for as long as this connection waits, so that it
    is still to be done.
    """
    db.execute("VACUUM")
    return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
