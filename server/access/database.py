"""Keys and tenants in SQLite, beside the stores. Written rarely, by servers and the command line at once.

The file is made with the first key or tenant. Keys stay in it after their end: where there ever was one, one is
wanted.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from heedful.retrieval.sqlite import Layout, opened, rewrite, transaction
from heedful.server.access import purging
from heedful.server.access.client import EVERYONE, Role
from heedful.server.access.key import AccessKey
from heedful.server.access.key_text import OURS, digest_of, new_id, new_text, prefix_of
from heedful.server.access.purging import Purges
from heedful.server.access.settings import LimitSettings, TenantSettings
from heedful.strategies import HeedfulError, RequestError

NAME = "access.sqlite"
"""No store has that ending."""
_LAYOUT = Layout(0x4845414B, 1)
_BUSY = 5.0  # seconds to wait for another process that writes
_TABLES = f"""{purging.TABLE}
CREATE TABLE tenants (name TEXT PRIMARY KEY, settings TEXT NOT NULL, changed REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, role TEXT NOT NULL, digest BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL, prefix TEXT NOT NULL, created REAL NOT NULL, expires REAL, revoked REAL,
    stores TEXT NOT NULL, limits TEXT NOT NULL, old_digest BLOB, old_until REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX keys_of ON keys (tenant);
"""
_FIELDS = (
    "id, tenant, role, digest, name, prefix, created, expires, revoked, stores, limits, old_digest, old_until"
)
_NO_LIMITS = LimitSettings()
_NO_PURGES = Purges(frozenset(), 0)


class AccessFailed(HeedfulError):
    """The file of keys and tenants can't be read or written."""

    status = 503
    default_code = "access_failed"


@dataclass(frozen=True, slots=True)
class Holdings:
    """All that the file holds; a tenant's settings as JSON."""

    tenants: dict[str, str]
    keys: list[AccessKey]
    purges: Purges = _NO_PURGES


class KeyDatabase:
    """Every write is one transaction, on the disk when it returns. All calls block."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._reading: tuple[sqlite3.Connection, tuple[int, int]] | None = None
        self._seen: int | None = None

    def exists(self) -> bool:
        return self.path.exists()

    def close(self) -> None:
        """Lets go of the connection that `news` keeps."""
        if self._reading is not None:
            self._reading[0].close()
            self._reading = None

    # -- reading

    def news(self) -> Holdings | None:
        """All of it, where something has been written since the last call; None else. For one thread at a time.

        Costs some microseconds where nothing has. Raises AccessFailed.
        """
        with self._telling():
            try:
                found = self.path.stat()
            except FileNotFoundError:
                return None  # whoever had keys keeps them
            file = found.st_dev, found.st_ino
            if self._reading is None or self._reading[1] != file:
                self.close()
                self._seen = None
                self._reading = self._connect(), file
            db = self._reading[0]
            try:
                version = db.execute("PRAGMA data_version").fetchone()[0]
                if version == self._seen:
                    return None
                holdings = _all(db)
            except sqlite3.Error:
                self.close()  # and begin anew
                raise
            self._seen = version
            return holdings

    def all(self) -> Holdings:
        """All of it. Raises AccessFailed."""
        if not self.exists():
            return Holdings({}, [])
        with self._telling():
            db = self._connect()
            try:
                return _all(db)
            finally:
                db.close()

    # -- writing

    def create_key(
        self,
        tenant: str,
        role: Role,
        *,
        name: str = "",
        expires: float | None = None,
        stores: frozenset[str] = frozenset(),
        limits: LimitSettings = _NO_LIMITS,
        others: Sequence[str] = (),
    ) -> tuple[AccessKey, str]:
        """A new key and its text, which nobody can ever tell again. `others`: tenants that the file does not hold.

        Raises RequestError.
        """
        now = time.time()
        if expires is not None and expires <= now:
            raise RequestError("expires: that is in the past", param="expires")
        if stores and role is not Role.AUTHOR:
            raise RequestError(
                "stores: for the role author only; admins write all, users none", param="stores"
            )
        known = tenant in (EVERYONE, *others)
        if not known and not self.exists():
            raise no_tenant(tenant)
        with self._writing() as db:
            if not known and not _one(db, "SELECT 1 FROM tenants WHERE name = ?", tenant):
                raise no_tenant(tenant)
            while _one(db, "SELECT 1 FROM keys WHERE id = ?", id := new_id()):
                pass
            text = new_text(id)
            key = AccessKey(
                id,
                tenant,
                role,
                digest_of(text),
                name,
                prefix_of(text),
                now,
                expires,
                stores=stores,
                limits=limits,
            )
            row = (
                id,
                tenant,
                role.name.lower(),
                key.digest,
                name,
                key.prefix,
                now,
                expires,
                None,
                msgspec.json.encode(sorted(stores)).decode(),
                limits.model_dump_json(exclude_defaults=True),
                None,
                0.0,
            )
            db.execute(f"INSERT INTO keys ({_FIELDS}) VALUES ({','.join('?' * len(row))})", row)
        return key, text

    def revoke(self, id: str) -> AccessKey:
        """Ends a key for good; one that has ended stays as it is. Raises RequestError."""
        with self._writing(create=False) as db:
            db.execute("UPDATE keys SET revoked = ? WHERE id = ? AND revoked IS NULL", [time.time(), id])
            return _key(db, id)

    def rotate(self, id: str, grace: float = 0.0) -> tuple[AccessKey, str]:
        """A new text for a key that is in force; the old one works for `grace` more seconds. Raises RequestError."""
        with self._writing(create=False) as db:
            now = time.time()
            key = _key(db, id)
            if (state := key.state(now)) != "active":
                raise RequestError(
                    f"the key {id} has {state}; create another", status=409, code=f"key_{state}"
                )
            text = new_text(id)
            db.execute(
                "UPDATE keys SET digest = ?, prefix = ?, old_digest = ?, old_until = ? WHERE id = ?",
                [digest_of(text), prefix_of(text), key.digest, now + grace, id]
                if grace > 0
                else [digest_of(text), prefix_of(text), None, 0.0, id],
            )
            return _key(db, id), text

    def put_tenant(self, name: str, settings: TenantSettings, *, new: bool | None = None) -> bool:
        """Makes a tenant, or gives it these settings in place of those it had; whether it is new.

        `new`: that it must, or must not, be so. Raises RequestError.
        """
        text = settings.model_dump_json(exclude_defaults=True)
        with self._writing() as db:
            made = not _one(db, "SELECT 1 FROM tenants WHERE name = ?", name)
            if made and purging.is_pending(db, name):
                raise purging.under_way(name)
            if new is True and not made:
                raise RequestError(f"the tenant {name!r} is there already", status=409, code="tenant_exists")
            if new is False and made and name != EVERYONE:
                raise no_tenant(name)
            db.execute("INSERT OR REPLACE INTO tenants VALUES (?, ?, ?)", [name, text, time.time()])
        return made

    def delete_tenant(self, name: str) -> int:
        """Deletes a tenant's settings and revokes its keys; how many those were. Raises RequestError."""
        _check_not_needed(name)
        with self._writing(create=False) as db:
            if not db.execute("DELETE FROM tenants WHERE name = ?", [name]).rowcount:
                raise no_tenant(name)
            ended = "UPDATE keys SET revoked = ? WHERE tenant = ? AND revoked IS NULL"
            return db.execute(ended, [time.time(), name]).rowcount

    def begin_purge(self, name: str, by: str | None) -> int:
        """`delete_tenant` of whoever may be gone already: from now on the name is taken until `end_purge`.

        `by`: the key of who asks. Raises RequestError.
        """
        _check_not_needed(name)
        with self._writing() as db:
            return purging.begin(db, name, by)

    def end_purge(self, name: str) -> None:
        """Forgets a tenant's keys, its settings to the last byte, and its name, all else of it being gone.

        Raises AccessFailed where another process reads the old bytes all the while: it has not ended then.
        """
        with self._writing(create=False) as db:
            purging.forget_keys(db, name)
        with self._telling(), closing(self._connect()) as db:
            if not rewrite(db):
                raise AccessFailed(f"{self.path}: another process reads what is to be forgotten; try again")
        with self._writing(create=False) as db:
            purging.end(db, name)
        with self._telling(), closing(self._connect()) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # all that is left is the name, overwritten

    # -- the file

    @contextmanager
    def _writing(self, *, create: bool = True) -> Iterator[sqlite3.Connection]:
        with self._telling():
            if create and not self.exists():
                self._make()
            if not self.exists():
                raise RequestError("there are no keys and no tenants here yet", status=404, code="not_found")
            with closing(self._connect()) as db, transaction(db):
                yield db

    def _make(self) -> None:
        """It is whole at once, and nobody else's to read from the beginning."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f".{NAME}.{uuid4().hex}")
        try:
            os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            db = sqlite3.connect(scratch, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode=WAL")
                _LAYOUT.write(db)
                db.executescript(_TABLES)
            finally:
                db.close()
            os.link(scratch, self.path)
        except FileExistsError:
            pass  # another process has been quicker
        finally:
            for suffix in ("", "-wal", "-shm"):
                scratch.with_name(scratch.name + suffix).unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        db = opened(self.path, wait=_BUSY)
        try:
            layout = Layout.of(db)
            if layout.application != _LAYOUT.application:
                raise AccessFailed(f"{self.path} is a database of something else, no file of heedful's keys")
            if layout != _LAYOUT:
                raise AccessFailed(
                    f"{self.path} has layout {layout.version}; this heedful reads {_LAYOUT.version}: use the version "
                    "that made it"
                )
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA secure_delete=ON")
            purging.prepare(db)
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours, with the file's name."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                raise AccessFailed(f"{self.path}: another process keeps it locked; try again") from error
            raise AccessFailed(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise AccessFailed(
                f"{self.path} is damaged or no file of heedful's keys ({error}); restore it from a copy"
            ) from error
        except OSError as error:
            raise AccessFailed(f"{self.path}: {error.strerror}") from error
        except (KeyError, ValueError, TypeError, msgspec.MsgspecError) as error:
            raise AccessFailed(f"{self.path} holds what no heedful wrote; restore it from a copy") from error


def _check_not_needed(name: str) -> None:
    if name == EVERYONE:
        raise RequestError(f"the tenant {name!r} can't be deleted", status=409, code="tenant_needed")


def no_tenant(name: str) -> RequestError:
    return RequestError(f"unknown tenant {name!r}", param="tenant", status=404, code="tenant_not_found")


def no_key(id: str) -> RequestError:
    shown = prefix_of(id) if OURS.search(id.encode()) else id[:64]
    return RequestError(f"unknown key {shown!r}", param="id", status=404, code="key_not_found")


def _one(db: sqlite3.Connection, query: str, *values: object) -> Any:
    return db.execute(query, values).fetchone()


def _key(db: sqlite3.Connection, id: str) -> AccessKey:
    if (row := _one(db, f"SELECT {_FIELDS} FROM keys WHERE id = ?", id)) is None:
        raise no_key(id)
    return _read(row)


def _all(db: sqlite3.Connection) -> Holdings:
    db.execute("BEGIN")
    try:
        tenants = dict(db.execute("SELECT name, settings FROM tenants"))
        keys = [_read(row) for row in db.execute(f"SELECT {_FIELDS} FROM keys ORDER BY created, id")]
        return Holdings(tenants, keys, purging.all_of(db))
    finally:
        db.execute("COMMIT")


_names: Callable[[str], list[str]] = msgspec.json.Decoder(list[str]).decode


def _read(row: Sequence[Any]) -> AccessKey:
    id, tenant, role, digest, name, prefix, created, expires, revoked, stores, limits, old, old_until = row
    return AccessKey(
        id,
        tenant,
        Role[role.upper()],
        digest,
        name,
        prefix,
        created,
        expires,
        revoked,
        frozenset(_names(stores)),
        _NO_LIMITS if limits == "{}" else LimitSettings.model_validate_json(limits),
        old,
        old_until,
    )
