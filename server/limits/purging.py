"""What was used by a tenant that goes: found in the file of budgets, and taken out of it, whoever writes to it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from heedful.retrieval.errors import StoreError
from heedful.retrieval.sqlite import opened, rewrite, transaction
from heedful.retrieval.store.connections import store_errors

_BUSY = 5.0  # seconds to wait for another process's transaction
# What ends later under a key of a tenant that was purged is not counted, in whichever process it runs.
_PURGED = """
CREATE TABLE IF NOT EXISTS purged (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS used_by_purged BEFORE INSERT ON used
    WHEN EXISTS (SELECT 1 FROM purged WHERE purged.key = NEW.key) BEGIN SELECT RAISE(IGNORE); END;
"""


def days_of(file: Path, tenant: str) -> int:
    """On how many days something was used. Blocks. Raises StoreError."""
    if not file.is_file():
        return 0
    with store_errors(file), closing(opened(file, wait=_BUSY)) as db:
        found = db.execute("SELECT count(DISTINCT day) FROM used WHERE tenant = ?", [tenant]).fetchone()
        return int(found[0])


def purge(file: Path, tenant: str, keys: Iterable[str]) -> None:
    """Deletes what a tenant and its keys have used. `keys`: the ids of all that it ever had. Blocks.

    Raises StoreError.
    """
    if not file.is_file():
        return
    with store_errors(file), closing(opened(file, wait=_BUSY)) as db:
        db.executescript(f"BEGIN IMMEDIATE; {_PURGED} COMMIT;")
        with transaction(db):
            db.executemany("INSERT OR IGNORE INTO purged VALUES (?)", [(key,) for key in keys])
            db.execute("DELETE FROM used WHERE tenant = ?", [tenant])
        if not rewrite(db):
            raise StoreError(f"{file}: another process reads what is to be forgotten; ask again")
