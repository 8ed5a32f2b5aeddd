"""What was used outlives the process that counted it, is one account for several, and can be looked up."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heedful.server.cli.main import app
from heedful.server.limits.budgets import Budgets, TokenBudget
from heedful.strategies import BudgetSpent

# Commits, and says so, until it is killed.
_WRITER = """
import sys
from pathlib import Path
from heedful.server.limits.budgets import Budgets
budgets = Budgets(Path(sys.argv[1]))
for i in range(10**9):
    budgets.hold("acme", "k", 3)
    budgets.commit("acme", "k", 10, 3)
    print(i + 1, flush=True)
"""


def test_a_kill_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    file, told = tmp_path / "usage.sqlite", 0
    for round in range(3):
        command = [sys.executable, "-c", _WRITER, str(file)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(50 * (round + 1))]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines()  # what was still on its way
        writer.stdout.close()
        writer.wait()
        told += max(int(line) for line in lines if line.strip().isdecimal())
        budgets = Budgets(file)
        used = budgets.used("acme", "k")
        budgets.close()
        # The last one may have been written, and not told.
        assert used.day_requests - told in range(round + 2)
        assert used.day == 10 * used.day_requests
        told = used.day_requests


def test_several_processes_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.server.limits.budgets.LOOK", 0)
    one, other = Budgets(tmp_path / "u.sqlite"), Budgets(tmp_path / "u.sqlite")
    for _ in range(3):
        one.commit("acme", "k1", 10, 0)
        one.fold()
        assert other.used("acme", None).day == one.used("acme", None).day
        other.commit("acme", "k2", 5, 0)
        other.fold()
        assert one.used("acme", "k2").day == other.used("acme", "k2").day
    assert one.used("acme", None).day == 45
    with pytest.raises(BudgetSpent, match="tenant 'acme' may use 45 in a day"):
        other.check([TokenBudget(("acme", None), 45, None)], code="budget_spent")
    one.close()
    other.close()


def test_what_is_under_way_counts(tmp_path: Path) -> None:
    budgets = Budgets(tmp_path / "u.sqlite")
    budgets.hold("acme", "k", 60)
    assert budgets.spent("acme", None) == (60, 60) == budgets.spent("acme", "k")
    budgets.commit("acme", "k", 70, 60)
    assert budgets.spent("acme", "k") == (70, 70)
    budgets.close()


def test_at_midnight_the_day_begins_anew_and_on_the_first_the_month(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two servers; what was asked before midnight and ends after it is of the new day."""
    clock = datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr("heedful.server.limits.budgets.now", lambda: clock.timestamp())
    monkeypatch.setattr("heedful.server.limits.budgets.LOOK", 0)
    one, other = Budgets(tmp_path / "u.sqlite"), Budgets(tmp_path / "u.sqlite")
    day, month = TokenBudget(("acme", None), 100, None), TokenBudget(("acme", None), None, 250)
    one.commit("acme", "k", 60, 0)
    one.hold("acme", "k", 40)
    one.fold()
    with pytest.raises(BudgetSpent, match="renews at 2026-11-30T00:00:00Z"):
        one.check([day], code="budget_spent")
    clock += timedelta(seconds=1)
    one.check([day], code="budget_spent")
    one.commit("acme", "k", 90, 40)
    one.fold()
    assert one.spent("acme", "k") == other.spent("acme", "k") == (90, 150)
    other.commit("acme", "k", 100, 0)
    other.fold()
    with pytest.raises(BudgetSpent, match="renews at 2026-12-01T00:00:00Z"):
        one.check([month], code="budget_spent")
    clock += timedelta(days=1)
    one.check([day, month], code="budget_spent")
    assert one.spent("acme", None) == other.spent("acme", "k") == (0, 0)
    one.close()
    other.close()


def test_what_can_not_be_folded_is_not_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    budgets = Budgets(tmp_path / "u.sqlite")
    budgets.commit("acme", "k", 10, 0)
    budgets.fold()
    with sqlite3.connect(tmp_path / "u.sqlite") as breaking:
        breaking.execute("ALTER TABLE used RENAME TO elsewhere")
    budgets.hold("acme", "k", 3)
    budgets.commit("acme", "k", 7, 3)
    budgets.fold()
    assert "no such table" in caplog.text
    with sqlite3.connect(tmp_path / "u.sqlite") as mending:
        mending.execute("ALTER TABLE elsewhere RENAME TO used")
    assert budgets.spent("acme", "k") == (17, 17)
    budgets.commit("acme", "k", 1, 0)
    assert budgets.spent("acme", "k") == (18, 18)
    budgets.close()
    assert _used(tmp_path / "u.sqlite") == (18, 3)


def test_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = Budgets(tmp_path / "u.sqlite")

    def full(fd: int, begin: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        budgets.commit("acme", "k", 10, 0)
    assert budgets.spent("acme", "k") == (10, 10) and not list(tmp_path.glob("*.journal"))
    budgets.commit("acme", "k", 100, 0)
    assert len(list(tmp_path.glob("*.journal"))) == 1
    budgets.close()
    assert _used(tmp_path / "u.sqlite") == (110, 2)


def test_a_line_whose_writer_was_killed_in_its_midst_is_none(tmp_path: Path) -> None:
    killed = Budgets(tmp_path / "u.sqlite")
    killed.commit("acme", "k", 10, 0)
    killed.commit("acme", "k", 100, 0)
    (journal,) = tmp_path.glob("*.journal")
    whole = journal.read_bytes().rstrip(b"\0")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / journal.name).write_bytes(whole[:-5].ljust(2000, b"\0"))
    assert _used(tmp_path / "other" / "u.sqlite") == (10, 1)
    killed.close()


@pytest.mark.parametrize("folded", ["nothing", "some", "all"])
def test_a_journal_that_was_left_is_folded_once(tmp_path: Path, folded: str) -> None:
    killed = Budgets(tmp_path / "u.sqlite")
    for tokens in (1, 10):
        killed.commit("acme", "k", tokens, 0)
        if folded == "all" or (folded == "some" and tokens == 1):
            killed.fold()
    other = Budgets(tmp_path / "u.sqlite")
    other.all()
    assert len(list(tmp_path.glob("*.journal"))) == 1  # of one that lives nothing is taken
    other.close()
    assert killed._journal is not None
    killed._journal._lines.close()  # as the kernel does for one that is killed
    for _ in range(2):
        assert _used(tmp_path / "u.sqlite") == (11, 2)
        assert not list(tmp_path.glob("*.journal"))


def test_a_journal_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("budgets", "journal"):
        monkeypatch.setattr(f"heedful.server.limits.{module}.SIZE", 1000)
    budgets, seen = Budgets(tmp_path / "u.sqlite"), set()
    for i in range(100):
        budgets.commit("acme", "k", 1, 0)
        left = list(tmp_path.glob("*.journal"))
        assert [path.stat().st_size for path in left] in ([], [1000])
        seen |= {path.name for path in left}
        if i % 7 == 0:
            budgets.fold()
    assert len(seen) > 2
    budgets.close()
    assert _used(tmp_path / "u.sqlite") == (100, 100)
    with sqlite3.connect(tmp_path / "u.sqlite") as database:
        assert not database.execute("SELECT * FROM folded").fetchall()


def _used(file: Path) -> tuple[int, int]:
    """Of the tenant, as a process that comes new sees it."""
    budgets = Budgets(file)
    used = budgets.used("acme", None)
    budgets.close()
    return used.day, used.day_requests


def test_the_command(tmp_path: Path) -> None:
    runner = CliRunner()
    nothing = runner.invoke(app, ["usage", "--folder", str(tmp_path)])
    assert nothing.exit_code != 0 and "nothing was used yet" in str(nothing.exception)
    budgets = Budgets(tmp_path / "usage.sqlite")
    budgets.commit("acme", "k1", 1234, 0)
    budgets.commit("other", "k2", 99, 0)
    budgets.fold()
    config = tmp_path / "heedful.yaml"
    config.write_text(f"stores: {tmp_path}\ntenants:\n  acme:\n    limits: {{tokens_per_day: 5000}}\n")
    shown = runner.invoke(app, ["usage", "--config", str(config), "--tenant", "acme"])
    assert shown.exit_code == 0, shown.output
    assert all(text in shown.output for text in ("acme", "k1", "1234", "5000", "the day ends at"))
    assert "other" not in shown.output
    budgets.close()
