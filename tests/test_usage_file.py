"""The file of usage under everything that befalls a file: what was used counts, and who can't know says so."""

from __future__ import annotations

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from heedful.server.access.client import Role
from heedful.server.access.database import KeyDatabase
from heedful.server.access.key import AccessKey
from heedful.server.limits import budgets as module
from heedful.server.limits.budgets import Budgets, TokenBudget, UsageFailed

LIMIT = [TokenBudget(("acme", None), 100, 1000)]


@pytest.fixture(autouse=True)
def _always_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0)


def _used(file: Path) -> tuple[int, int]:
    """Of the tenant this month, as a process that comes new sees it."""
    budgets = Budgets(file)
    used = budgets.used("acme", None)
    budgets.close()
    return used.month, used.month_requests


def test_one_that_is_locked_as_it_is_opened_is_opened_later(tmp_path: Path) -> None:
    file = tmp_path / "u.sqlite"
    with sqlite3.connect(file, isolation_level=None) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.execute("BEGIN EXCLUSIVE")
        budgets = Budgets(file)
        with pytest.raises(UsageFailed, match=r"u\.sqlite.*locked"):
            budgets.check(LIMIT, code="budget_spent")
        budgets.commit("acme", "k", 7, 0)
        assert not budgets.fold()
        other.execute("ROLLBACK")
    budgets.check(LIMIT, code="budget_spent")
    assert budgets.spent("acme", "k") == (7, 7) and budgets.fold()
    assert _used(file) == (7, 1)
    budgets.close()


def test_one_that_is_none_refuses_and_still_counts(tmp_path: Path) -> None:
    file = tmp_path / "u.sqlite"
    file.write_bytes(b"nonsense" * 1000)
    budgets = Budgets(file)
    budgets.hold("acme", "k", 3)
    budgets.commit("acme", "k", 7, 3)
    with pytest.raises(UsageFailed) as refusal:
        budgets.check(LIMIT, code="budget_spent")
    assert refusal.value.status == 503 and str(tmp_path) not in str(refusal.value)
    file.unlink()
    assert budgets.spent("acme", "k") == (7, 7)
    budgets.close()
    assert _used(file) == (7, 1)


@pytest.mark.parametrize("limited", [False, True])
def test_one_that_is_taken_away_is_begun_anew(tmp_path: Path, limited: bool) -> None:
    folder = tmp_path / "stores"
    budgets = Budgets(folder / "u.sqlite")
    budgets.commit("acme", "k", 1, 0)
    budgets.fold()
    shutil.rmtree(folder)
    if limited:
        budgets.check(LIMIT, code="budget_spent")
    budgets.commit("acme", "k", 10, 0)
    assert budgets.fold() and budgets.spent("acme", "k") == (10, 10)
    assert _used(folder / "u.sqlite") == (10, 1)
    budgets.commit("acme", "k", 20, 0)
    assert len(list(folder.glob("*.journal"))) == 1
    budgets.close()
    assert _used(folder / "u.sqlite") == (30, 2)


def test_a_copy_that_is_restored_is_taken_up(tmp_path: Path) -> None:
    file, copy = tmp_path / "u.sqlite", tmp_path / "copy"
    budgets = Budgets(file)
    budgets.commit("acme", "k", 1, 0)
    budgets.fold()
    _backup(file, copy)
    budgets.commit("acme", "k", 10, 0)
    assert budgets.fold() and budgets.spent("acme", "k") == (11, 11)
    _backup(copy, file)
    assert budgets.spent("acme", "k") == (1, 1)
    budgets.commit("acme", "k", 100, 0)
    budgets.close()
    assert _used(file) == (101, 2)


def test_so_is_one_of_keys(tmp_path: Path) -> None:
    keys, copy = KeyDatabase(tmp_path), tmp_path / "copy"
    first, _ = keys.create_key("default", Role.USER)
    servers = [KeyDatabase(tmp_path), KeyDatabase(tmp_path)]
    _backup(keys.path, copy)
    keys.revoke(first.id)
    for server in servers:
        assert [key.revoked is None for key in _news(server)] == [False]
    _backup(copy, keys.path)
    for server in servers:
        assert [key.revoked is None for key in _news(server)] == [True]
        server.close()


def _news(database: KeyDatabase) -> list[AccessKey]:
    news = database.news()
    assert news is not None
    return news.keys


def _backup(file: Path, to: Path) -> None:
    """As `.backup` and `.restore` of SQLite's own command do."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def test_days_of_a_clock_that_was_ahead_are_no_part_of_this_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = Budgets(tmp_path / "u.sqlite")
    with monkeypatch.context() as ahead:
        ahead.setattr(module, "now", lambda: time.time() + 400 * 86_400)
        budgets.commit("acme", "k", 1000, 0)
        assert budgets.spent("acme", "k") == (1000, 1000)
    budgets.commit("acme", "k", 1, 0)
    assert budgets.spent("acme", "k") == (1, 1)  # of what is not folded yet
    budgets.close()
    assert _used(tmp_path / "u.sqlite") == (1, 1)  # and of what is


def _killed(file: Path, tokens: int) -> None:
    """Leaves the journal of a process that is no more."""
    budgets = Budgets(file)
    budgets.commit("acme", "k", tokens, 0)
    assert budgets._journal is not None
    budgets._journal._lines.close()


def test_a_journal_that_can_not_be_read_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "u-0-0.journal").mkdir()
    _killed(tmp_path / "u.sqlite", 10)
    assert _used(tmp_path / "u.sqlite") == (10, 1)
    assert "directory" in caplog.text


def test_who_lives_takes_over_what_others_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "u.sqlite"
    budgets = Budgets(file)
    budgets.commit("acme", "k", 1, 0)
    assert budgets.fold()
    _killed(file, 10)
    monkeypatch.setattr(module, "_TAKE_OVER", 0)
    budgets.commit("acme", "k", 100, 0)
    assert budgets.fold() and budgets.spent("acme", "k") == (111, 111)
    budgets.close()
    assert _used(file) == (111, 3)
