"""Commands of others: mounted by an entry point, imported when they are asked for, and no danger to ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = """
import typer

from heedful.server.cli.errors import CommandError

print("imported")
many = typer.Typer(help="Several.")


def once(name: str = "you") -> None:
    "Says hello."
    if name == "nobody":
        raise CommandError("nobody is there")
    print(f"hello {name}")


@many.command()
def first() -> None:
    "The first."
    print("the first")


@many.command()
def second() -> None:
    "The second."
"""


@pytest.fixture
def others(tmp_path: Path) -> Path:
    (tmp_path / "greeting.py").write_text(COMMANDS)
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)")
    (tmp_path / "marked.py").write_text("raise ImportError('pip install [/x] [measure]')")
    info = tmp_path / "greeting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    entries = [
        "once = greeting:once",
        "many = greeting:many",
        "gone = greeting:gone",
        "ends = leaving:all",
        "marked = marked:all",
        "serve = greeting:once",
    ]
    (info / "entry_points.txt").write_text("[heedful.commands]\n" + "\n".join(entries) + "\n")
    return tmp_path


def _run(folder: Path, *arguments: str) -> tuple[int, str, str]:
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, "-m", "heedful.server", *arguments]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


def test_they_run_like_ours(others: Path) -> None:
    assert _run(others, "once", "--name", "Ann") == (0, "imported\nhello Ann\n", "")
    assert _run(others, "many", "first") == (0, "imported\nthe first\n", "")
    status, _, told = _run(others, "once", "--name", "nobody")
    assert status == 2 and told.strip() == "heedful: nobody is there"


def test_they_stand_in_the_help_and_ours_stay_ours(others: Path) -> None:
    status, told, _ = _run(others, "--help")
    assert status == 0 and "Says hello" in told and "Several" in told and "can't be loaded" in told
    status, told, _ = _run(others, "serve", "--help")
    assert status == 0 and "MODEL" in told and "imported" not in told


def test_one_that_cant_be_loaded_says_why(others: Path) -> None:
    status, _, told = _run(others, "gone")
    assert status == 2 and "gone (greeting:gone) can't be loaded" in told and "Traceback" not in told
    status, _, told = _run(others, "marked", "--fast", "x")
    assert status == 2 and "pip install [/x] [measure]" in told
    assert _run(others, "ends")[0] == 2
