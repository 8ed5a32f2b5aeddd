"""The purge of a tenant, as the file of keys knows it.

Once it has begun the tenant is gone, and until it has ended its name is taken: one that was cut off can be asked for
again, and nobody is made under the name meanwhile.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from hashlib import sha256

from heedful.strategies import RequestError

TABLE = """
CREATE TABLE IF NOT EXISTS purges
    (digest TEXT NOT NULL, tenant TEXT, by TEXT, keys INTEGER NOT NULL, began REAL NOT NULL, ended REAL);
"""
"""What stays of a purge: when, by which key, how many keys there were, and the SHA-256 of the tenant's name."""


@dataclass(frozen=True, slots=True)
class Purges:
    """Those that the file knows of."""

    pending: frozenset[str]
    """Tenants whose purge has begun and not ended."""
    keys: int
    """How many keys have gone with tenants: where there ever was one, one is wanted."""


def prepare(db: sqlite3.Connection) -> None:
    """Adds the table to a file that was made before there was one."""
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'purges'").fetchone():
        db.executescript(f"BEGIN IMMEDIATE; {TABLE} COMMIT;")


def begin(db: sqlite3.Connection, name: str, by: str | None) -> int:
    """Deletes a tenant's settings and revokes its keys; how many those were. The same again changes nothing."""
    now = time.time()
    if not is_pending(db, name):
        digest = sha256(name.encode()).hexdigest()
        db.execute("INSERT INTO purges VALUES (?, ?, ?, 0, ?, NULL)", [digest, name, by, now])
    db.execute("DELETE FROM tenants WHERE name = ?", [name])
    return db.execute(
        "UPDATE keys SET revoked = ? WHERE tenant = ? AND revoked IS NULL", [now, name]
    ).rowcount


def is_pending(db: sqlite3.Connection, name: str) -> bool:
    return db.execute("SELECT 1 FROM purges WHERE tenant = ?", [name]).fetchone() is not None


def forget_keys(db: sqlite3.Connection, name: str) -> None:
    gone = db.execute("DELETE FROM keys WHERE tenant = ?", [name]).rowcount
    db.execute("UPDATE purges SET keys = keys + ? WHERE tenant = ?", [gone, name])


def end(db: sqlite3.Connection, name: str) -> None:
    """The last step: the name is forgotten, and free."""
    db.execute("UPDATE purges SET tenant = NULL, ended = ? WHERE tenant = ?", [time.time(), name])


def all_of(db: sqlite3.Connection) -> Purges:
    pending = db.execute("SELECT tenant FROM purges WHERE tenant IS NOT NULL").fetchall()
    (keys,) = db.execute("SELECT coalesce(sum(keys), 0) FROM purges").fetchone()
    return Purges(frozenset(name for (name,) in pending), keys)


def under_way(name: str) -> RequestError:
    """What whoever makes a tenant is told."""
    return RequestError(
        f"the tenant {name!r} is being purged, or its purge was cut off: ask for that again, and make it then",
        param="name",
        status=409,
        code="tenant_purging",
    )
