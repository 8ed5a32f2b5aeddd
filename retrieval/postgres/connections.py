"""Connections to one database, each with one owner at a time; lost ones are made anew, and failures have a reason.

Nothing here waits for a server that is known to be down: one caller a second tries to reach it, the others are told
at once what that one was told. So an outage holds no threads, and ends for everybody with the first who gets through.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode

import psycopg
from pgvector.psycopg import register_vector
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from heedful.retrieval.errors import InvalidItem, StoreError, StoreUnavailable
from heedful.retrieval.postgres import layout

PgConnection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_MOST = 16  # connections of a process
_WAIT = 10.0  # seconds for one of them
_AGAIN = 1.0  # seconds until a server that is down is tried again
_DEFAULTS = {
    "application_name": "heedful",
    "connect_timeout": "3",
    # A server that has gone without a word is noticed in some ten seconds, whoever waits for what.
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",  # of several hosts the one that is the primary now
}
_SESSION = """
SET statement_timeout = '30s'; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '120s';
SET jit = off; SET plan_cache_mode = force_custom_plan;
SET hnsw.iterative_scan = strict_order; SET hnsw.ef_search = {ef}; SET hnsw.max_scan_tuples = {most};
"""
EF_SEARCH, MAX_SCAN = 160, 40_000
"""Of the index: how many candidates a search keeps, and how many rows it looks at under a filter."""


class Address(NamedTuple):
    """Where the stores are: what libpq takes, the schema, and what may be told of it (no password)."""

    conninfo: dict[str, Any]
    schema: str
    told: str

    @classmethod
    def of(cls, url: str) -> Address:
        """From postgresql://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME, and libpq's own parameters. Raises
        StoreError."""
        base, _, asked = url.partition("?")
        query = parse_qsl(asked, keep_blank_values=True)
        schema = dict(query).get("schema", "heedful")
        if not _SCHEMA.fullmatch(schema):
            raise StoreError("stores: the schema has lower-case letters, digits and _, 63 at most")
        plain = urlencode([pair for pair in query if pair[0] != "schema"])
        try:
            conninfo = conninfo_to_dict(f"{base}?{plain}")
        except psycopg.Error as error:
            told, _, quoted = _line(error).rpartition(": ")
            if quoted.strip('"') not in base and base not in quoted:  # where the password is
                told = f"{told}: {quoted}"
            raise StoreError(f"stores: no address of a database: {told}") from None
        host, database = conninfo.get("host") or "localhost", conninfo.get("dbname") or "its default database"
        return cls(_DEFAULTS | conninfo, schema, f"the database of the stores ({database} at {host})")


class ConnectionPool:
    """Opened at first use. Methods raise StoreUnavailable where the server can't be reached or can't do it now."""

    def __init__(self, place: Address) -> None:
        self.place = place
        self.schema = place.schema
        self._room = threading.BoundedSemaphore(_MOST)
        self._lock = threading.Lock()
        self._idle: list[PgConnection] = []
        self._down: tuple[float, str] | None = None  # until when nobody tries, and why
        self._search_path: sql.Composed | None = None
        self._closed = False

    def read(self, work: Callable[[PgConnection], T]) -> T:
        """What `work` returns, which only reads: it is done again where a connection turns out to be lost."""
        return self._done(work, transaction=False)

    def write(self, work: Callable[[PgConnection], T], *, again: bool = True) -> T:
        """The same in one transaction, which is on the server's disk when this returns; `again`: whether it may be
        done again, where nothing has been committed."""
        return self._done(work, transaction=True, again=again)

    @contextmanager
    def snapshot(self) -> Iterator[PgConnection]:
        """A connection for several statements that all see this moment. Nothing is done again."""
        with self._telling(), self._room_for_one(), self._lent() as (connection, _):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield connection
            connection.execute("COMMIT")

    def close(self) -> None:
        """Whoever uses one now lets go of it at the end."""
        with self._lock:
            self._closed = True
        self._drop_idle()

    def _done(self, work: Callable[[PgConnection], T], *, transaction: bool, again: bool = True) -> T:
        with self._telling(), self._room_for_one():
            while True:
                with self._lent() as (connection, fresh):
                    try:
                        if transaction:
                            connection.execute("BEGIN")
                        done = work(connection)
                    except psycopg.Error as error:
                        if fresh or not again or not _lost(connection, error):
                            raise
                    else:
                        if transaction:
                            self._commit(connection)
                        return done
                self._drop_idle()  # they are from before the server went; nothing has been committed

    def _commit(self, connection: PgConnection) -> None:
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if not _lost(connection, error):
                raise
            raise StoreUnavailable(
                f"{self.place.told} went away while it was writing: it is written whole or not at all; ask what "
                f"stands, or write it again ({_line(error)})"
            ) from error

    @contextmanager
    def _room_for_one(self) -> Iterator[None]:
        if not self._room.acquire(timeout=_WAIT):
            raise StoreUnavailable(f"{self.place.told}: all {_MOST} connections of this server are busy")
        try:
            yield
        finally:
            self._room.release()

    @contextmanager
    def _lent(self) -> Iterator[tuple[PgConnection, bool]]:
        """A connection, and whether it was made for this."""
        with self._lock:
            if self._closed:
                raise StoreError("the stores are closed")
            kept = self._idle.pop() if self._idle else None
        connection = kept or self._connect()
        try:
            yield connection, kept is None
        finally:
            usable = _rolled_back(connection)
            with self._lock:
                keep = usable and not self._closed
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _connect(self) -> PgConnection:
        with self._lock:
            if self._down is not None:
                until, why = self._down
                if time.monotonic() < until:
                    raise StoreUnavailable(why)
                self._down = time.monotonic() + _WAIT, why  # this one tries, no other meanwhile
        try:
            connection = self._connected()
        except BaseException as error:
            why = _line(error)
            if not isinstance(error, StoreError):
                why = f"{self.place.told} can't be reached: {why}"
            with self._lock:
                self._down = time.monotonic() + _AGAIN, why
            if isinstance(error, psycopg.OperationalError):
                raise StoreUnavailable(why) from error
            raise
        with self._lock:
            self._down = None
        return connection

    def _connected(self) -> PgConnection:
        connection: PgConnection = psycopg.connect(
            **self.place.conninfo, autocommit=True, prepare_threshold=None
        )
        try:
            if self._search_path is None:
                extension = layout.prepare(connection, self.schema, self.place.told)
                schemas = sql.SQL(", ").join(
                    map(sql.Identifier, dict.fromkeys((self.schema, extension, "public")))
                )
                self._search_path = sql.SQL("SET search_path = {}").format(schemas)
            connection.execute(self._search_path)
            register_vector(connection)
            connection.execute(_SESSION.format(ef=EF_SEARCH, most=MAX_SCAN))
            # What is acknowledged is on the disk, whatever the role's default is.
            if connection.execute("SHOW synchronous_commit").fetchone() == ("off",):
                connection.execute("SET synchronous_commit = on")
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """psycopg's errors as ours. Tables that are not there are for who knows why (`UndefinedTable`)."""
        try:
            yield
        except errors.UndefinedTable:
            raise
        except errors.DataError as error:
            raise InvalidItem(f"PostgreSQL can't hold it: {_line(error)}", "items") from error
        except errors.QueryCanceled as error:
            raise StoreUnavailable(f"{self.place.told} took too long: {_line(error)}") from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StoreUnavailable(f"{self.place.told}: {_line(error)}") from error
        except psycopg.Error as error:
            raise StoreError(f"{self.place.told}: {_line(error)}") from error


def _lost(connection: PgConnection, error: psycopg.Error) -> bool:
    """Whether it was the connection, and a new one may do better: a server that went, or is no primary any more."""
    return connection.closed or isinstance(error, errors.ReadOnlySqlTransaction)


def _rolled_back(connection: PgConnection) -> bool:
    """Whether nothing is left open of what its last user began, and the next may write."""
    if connection.closed:
        return False
    try:
        if connection.info.transaction_status != TransactionStatus.IDLE:
            connection.execute("ROLLBACK")
    except psycopg.Error:
        return False
    return connection.info.transaction_status == TransactionStatus.IDLE


def _line(error: BaseException) -> str:
    """Its first line; libpq has one for each address that it tried."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
