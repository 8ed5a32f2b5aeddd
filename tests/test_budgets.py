"""What was used outlives the process that counted it, is one account for several, and can be looked up."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from heedful.server.cli.main import app
from heedful.server.limits.budgets import Budgets, TokenBudget
from heedful.strategies import BudgetSpent

_write = os.write
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


def test_what_can_not_be_folded_is_not_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    budgets = Budgets(tmp_path / "u.sqlite")
    budgets.commit("acme", "k", 10, 0)
    budgets.fold()
    with sqlite3.connect(tmp_path / "u.sqlite") as breaking:
        breaking.execute("ALTER TABLE used RENAME TO elsewhere")
    budgets.hold("acme", "k", 3)
    budgets.commit("acme", "k", 7, 3)
    budgets.fold()
    assert "OperationalError" in caplog.text
    with sqlite3.connect(tmp_path / "u.sqlite") as mending:
        mending.execute("ALTER TABLE elsewhere RENAME TO used")
    assert budgets.spent("acme", "k") == (17, 17)
    budgets.commit("acme", "k", 1, 0)
    assert budgets.spent("acme", "k") == (18, 18)
    budgets.close()
    assert _used(tmp_path / "u.sqlite") == (18, 3)


def test_a_full_disk_loses_nothing_but_to_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budgets = Budgets(tmp_path / "u.sqlite")
    budgets.commit("acme", "k", 1, 0)
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, line: _write(fd, line[:9]))
        budgets.commit("acme", "k", 10, 0)
    budgets.commit("acme", "k", 100, 0)
    assert budgets.spent("acme", "k") == (111, 111)
    # As if it were killed now: the line that was torn is lost, and no other.
    (journal,) = tmp_path.glob("*.journal")
    (tmp_path / "other").mkdir()
    shutil.copy(journal, tmp_path / "other" / journal.name)
    assert _used(tmp_path / "other" / "u.sqlite") == (101, 2)
    budgets.close()
    assert _used(tmp_path / "u.sqlite") == (111, 3)


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
    os.close(killed._journal._fd)  # as the kernel does for one that is killed
    for _ in range(2):
        assert _used(tmp_path / "u.sqlite") == (11, 2)
        assert not list(tmp_path.glob("*.journal"))


def test_a_journal_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heedful.server.limits.budgets._LARGE", 1000)
    budgets, seen = Budgets(tmp_path / "u.sqlite"), set()
    for _ in range(100):
        budgets.commit("acme", "k", 1, 0)
        budgets.fold()
        left = list(tmp_path.glob("*.journal"))
        assert sum(path.stat().st_size for path in left) < 1100
        seen |= {path.name for path in left}
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
