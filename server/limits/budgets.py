"""Tokens of a day and a month: what each key has used, in a SQLite file that outlives this process.

Each request is in a journal before its answer's end goes out, and folded into the file with others a moment later
(WAL, synchronous=OFF: what is written outlives a killed process, though not a machine without power). Several
processes may write to the same file.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from heedful.server.limits.journal import SIZE, Row, UsageJournal, journals, rows, taken
from heedful.server.log import failed
from heedful.strategies import BudgetSpent, HeedfulError

now = time.time
LOOK = 0.05
"""Seconds until it is looked again whether another process has written."""
FOLD = 0.1
"""Seconds until what was used is in the file, for other processes to see."""
OLDEST = 60.0
"""Seconds of a journal: a tenant that is purged is to be in none for longer."""
AGAIN = 1.0
"""Seconds until what could not be written is tried again."""
_DAY = 86_400
_WAIT = 0.05  # seconds for another process's transaction, which takes microseconds; all requests here wait as long
_TAKE_OVER = 60.0  # seconds between looks at what killed processes have left
_TABLE = """
CREATE TABLE IF NOT EXISTS used (
    tenant TEXT NOT NULL, key TEXT NOT NULL, day TEXT NOT NULL, tokens INTEGER NOT NULL, requests INTEGER NOT NULL,
    PRIMARY KEY (tenant, key, day)) WITHOUT ROWID
"""
_ADD = """
INSERT INTO used VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET tokens = tokens + excluded.tokens, requests = requests + excluded.requests
"""
# How much of each journal is in the table already: written with it, so that nothing is folded twice.
_FOLDED = "CREATE TABLE IF NOT EXISTS folded (journal TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID"
_MARK = "INSERT OR REPLACE INTO folded VALUES (?, ?)"
_UNMARK = "DELETE FROM folded WHERE journal = ?"
_SUM = "SELECT coalesce(sum(tokens), 0), coalesce(sum(requests), 0) FROM used WHERE "


class UsageFailed(HeedfulError):
    """The file can't be read: nobody knows whether anything is left of a budget."""

    status = 503
    default_code = "usage_failed"


@dataclass(slots=True)
class Used:
    """Of a day and of its month, in UTC."""

    day: int = 0
    month: int = 0
    day_requests: int = 0
    month_requests: int = 0


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """Tokens of a day and of a month, of a key or (None) of all of a tenant's."""

    owner: tuple[str, str | None]
    day: int | None
    month: int | None


@dataclass(frozen=True, slots=True)
class Today:
    """A day of the calendar, and when it and its month end, in seconds of the clock."""

    day: str
    month: str
    ends: float
    month_ends: float

    @property
    def days(self) -> str:
        """A pattern of the month's days: not of later ones, which a clock that was wrong may have left."""
        return f"{self.month}-*"

    @classmethod
    def at(cls, moment: float) -> Today:
        date = datetime.fromtimestamp(moment, UTC)
        following = datetime(date.year + date.month // 12, date.month % 12 + 1, 1, tzinfo=UTC)
        ends = (moment // _DAY + 1) * _DAY
        return cls(f"{date:%Y-%m-%d}", f"{date:%Y-%m}", ends, following.timestamp())


class Budgets:
    """What was used. The file is made with the first request that counts."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._database: sqlite3.Connection | None = None
        self._opened = (0, 0)
        """Device and number of the file that it is connected to."""
        self._taken_over = 0.0
        self._today = Today.at(0.0)
        self._known: dict[tuple[str, str | None], Used] = {}
        """By tenant and key (None: all of the tenant's)."""
        self._version = -1
        self._looked = self._again = 0.0
        self._unfolded: dict[tuple[str, str, str], list[int]] = {}
        """By tenant, key and day, the tokens and requests that are not in the file yet."""
        self._under_way: Counter[tuple[str, str | None]] = Counter()
        self._journal: UsageJournal | None = None

    # -- what was used

    def used(self, tenant: str, key: str | None) -> Used:
        """By a key, or by all of a tenant's; other processes' too. Raises UsageFailed."""
        self._refresh(now())
        if (used := self._known.get((tenant, key))) is None:
            used = self._known[tenant, key] = self._read(tenant, key)
        return used

    def spent(self, tenant: str, key: str | None) -> tuple[int, int]:
        """Tokens of the day and of the month, with what requests under way have used so far."""
        used, more = self.used(tenant, key), self._under_way[tenant, key]
        return used.day + more, used.month + more

    def check(self, budgets: Iterable[TokenBudget], *, code: str) -> None:
        """Raises BudgetSpent where the tokens of one are used up, UsageFailed where nobody knows."""
        self._refresh(now())
        for budget in budgets:
            used, more = self._known.get(budget.owner), self._under_way.get(budget.owner, 0)
            if used is None:
                used = self.used(*budget.owner)
            if budget.month is not None and used.month + more >= budget.month:
                raise self._refusal(budget, "month", budget.month, used.month + more, code)
            if budget.day is not None and used.day + more >= budget.day:
                raise self._refusal(budget, "day", budget.day, used.day + more, code)

    def _refusal(self, budget: TokenBudget, period: str, limit: int, spent: int, code: str) -> BudgetSpent:
        tenant, key = budget.owner
        whose = f"tenant {tenant!r}" if key is None else f"key {key!r}"
        ends = self.today.ends if period == "day" else self.today.month_ends
        return BudgetSpent(
            f"the tokens of this {period} are spent: {whose} may use {limit} in a {period} and has used {spent}; "
            f"the budget renews at {iso_seconds(ends)}",
            code=code,
            retry_after=ends - now(),
        )

    @property
    def today(self) -> Today:
        self._refresh(now())
        return self._today

    def all(self) -> list[tuple[str, str]]:
        """Every tenant and key of this month. Raises UsageFailed."""
        self.fold()
        with self._telling():
            rows = self._open().execute(
                "SELECT DISTINCT tenant, key FROM used WHERE day GLOB ? ORDER BY 1, 2", (self.today.days,)
            )
            return [(tenant, key) for tenant, key in rows]

    # -- using it

    def hold(self, tenant: str, key: str | None, tokens: int) -> None:
        """A request that is under way has used these."""
        for owner in _owners(tenant, key):
            self._under_way[owner] += tokens

    def commit(self, tenant: str, key: str | None, tokens: int, held: int) -> None:
        """A request is over, and has used `tokens` in all, of which `held` were told before.

        Counts whatever becomes of the files.
        """
        self._turn_to(now())
        row = tenant, key or "", self._today.day, tokens
        self._write(row)
        unfolded = self._unfolded.setdefault(row[:3], [0, 0])
        unfolded[0] += tokens
        unfolded[1] += 1
        for owner in _owners(tenant, key):
            if held:
                self._under_way[owner] -= held
                if not self._under_way[owner]:
                    del self._under_way[owner]
            if (used := self._known.get(owner)) is not None:
                used.day += tokens
                used.month += tokens
                used.day_requests += 1
                used.month_requests += 1

    def _write(self, row: Row) -> None:
        """Into the journal. Where there is no room it counts all the same, and is folded with the others."""
        try:
            for _ in range(2):
                if self._journal is None:
                    self.file.parent.mkdir(parents=True, exist_ok=True)
                    self._journal = UsageJournal.beside(self.file)
                if self._journal.write(row):
                    return
                self.fold()  # it is full, and there will be a new one
        except OSError as error:
            failed(self._failure(error))

    def fold(self) -> bool:
        """Brings what was used since the last time into the file; whether it could; else it is with the next."""
        if not self._unfolded:
            return True
        try:
            self._fold()
        except (sqlite3.Error, OSError) as error:
            failed(self._failure(error))
            return False
        return True

    def _fold(self) -> None:
        database = self._open()
        if not 0 <= now() - self._taken_over < _TAKE_OVER:
            self._take_over(database)
        journal = self._journal
        with database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_ADD, [(*row, *counts) for row, counts in self._unfolded.items()])
            if journal is not None:
                database.execute(_MARK, (journal.path.name, journal.used))
        self._unfolded.clear()
        if journal is not None and journal.used > SIZE // 2:
            self._end(journal, database)

    def _end(self, journal: UsageJournal, database: sqlite3.Connection) -> None:
        self._journal = None
        journal.end()  # first: a mark without a journal is nothing, a journal without its mark is folded again
        database.execute(_UNMARK, (journal.path.name,))

    def renew(self) -> None:
        """Brings all into the file, and the journal to its end."""
        try:
            if self.fold() and self._journal is not None:
                self._end(self._journal, self._open())
        except (sqlite3.Error, OSError) as error:
            failed(self._failure(error))

    def close(self) -> None:
        self.renew()
        if self._database is not None:
            self._database.close()
            self._database = None

    # -- the file

    def _open(self) -> sqlite3.Connection:
        """The file that has the name now, which somebody may have put in another's place."""
        if self._database is not None:
            if self._opened == self._found():
                return self._database
            self._database.close()
            self._database = None
            if self._journal is not None:  # its marks are in the other
                self._journal.end()
                self._journal = None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.file, timeout=_WAIT, isolation_level=None)
        try:
            database.execute("PRAGMA page_size = 1024")  # a commit writes whole pages
            _in_wal(database)
            database.execute("PRAGMA synchronous = OFF")
            database.execute(_TABLE)
            database.execute(_FOLDED)
        except BaseException:
            database.close()
            raise
        self._database, self._opened = database, self._found()
        self._version = -1
        self._known.clear()
        self._take_over(database)
        return database

    def _found(self) -> tuple[int, int]:
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _take_over(self, database: sqlite3.Connection) -> None:
        """What processes that were killed have left. What can't be taken over now may be later."""
        self._taken_over = now()
        for path in journals(self.file):
            try:
                with taken(path) as ours, database:
                    if not ours:
                        continue
                    database.execute("BEGIN IMMEDIATE")
                    found = database.execute("SELECT bytes FROM folded WHERE journal = ?", (path.name,))
                    begin = next(found, (0,))[0]
                    database.executemany(_ADD, [(*row, 1) for row in rows(path, begin)])
                    database.execute(_MARK, (path.name, path.stat().st_size))
                    database.execute("COMMIT")
                    path.unlink()
                    database.execute(_UNMARK, (path.name,))
            except OSError as error:
                failed(self._failure(error))
            except sqlite3.Error as error:
                failed(self._failure(error))
                return

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    def _failure(self, error: sqlite3.Error | OSError) -> UsageFailed:
        why = error.strerror if isinstance(error, OSError) else error
        return UsageFailed(
            f"{self.file.name}, where it is kept what was used, can't be read or written: {why}"
        )

    def _turn_to(self, at: float) -> None:
        """A new day is news."""
        if not 0 < self._today.ends - at <= _DAY:
            self._today = Today.at(at)
            self._known.clear()

    def _refresh(self, at: float) -> None:
        """So is what another process has written; what this one writes is not."""
        if self._looked <= at < self._again:
            return
        self._turn_to(at)
        with self._telling():
            (version,) = self._open().execute("PRAGMA data_version").fetchone()
        self._looked, self._again = at, min(at + LOOK, self._today.ends)
        if version != self._version:
            self._version = version
            self._known.clear()

    def _read(self, tenant: str, key: str | None) -> Used:
        whose, values = ("tenant = ?", [tenant]) if key is None else ("tenant = ? AND key = ?", [tenant, key])
        today = self._today
        with self._telling():
            database = self._open()
            day = database.execute(f"{_SUM}{whose} AND day = ?", [*values, today.day]).fetchone()
            month = database.execute(f"{_SUM}{whose} AND day GLOB ?", [*values, today.days]).fetchone()
        used = Used(day[0], month[0], day[1], month[1])
        for (owner, its_key, on), (tokens, requests) in self._unfolded.items():
            if owner == tenant and key in (None, its_key):
                if on == today.day:
                    used.day += tokens
                    used.day_requests += requests
                if on.startswith(today.month):
                    used.month += tokens
                    used.month_requests += requests
        return used


def _in_wal(database: sqlite3.Connection) -> None:
    """Where two open a new file at the same moment, SQLite lets neither wait for the other."""
    for _ in range(9):
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            time.sleep(_WAIT / 10)
    database.execute("PRAGMA journal_mode = WAL")


def iso_seconds(moment: float) -> str:
    """A moment as clients read it: in UTC, to the second. (Ours have more digits: `retrieval.items.iso`.)"""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _owners(tenant: str, key: str | None) -> tuple[tuple[str, str | None], ...]:
    return ((tenant, None),) if key is None else ((tenant, None), (tenant, key))
