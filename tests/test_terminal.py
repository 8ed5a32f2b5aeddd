"""What is printed for people is text, whatever a model, a file or an upstream has put into it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from running import at_once

from heedful.benchmarks.load import terminal as figures
from heedful.benchmarks.load.summary import CellSummary
from heedful.server.terminal import bar, terminal
from heedful.strategies import RequestError
from heedful.strategies.scripted import ScriptedEngine

Serving = Callable[..., AbstractContextManager[str]]
ODD = "the class [a-z] and [/x], [bold]not bold[/], :smile: C:\\"


def _heedful(*arguments: str, typed: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "heedful.server", *arguments],
        input=typed,
        capture_output=True,
        env={**os.environ, "COLUMNS": "40", "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"},
    )


def test_the_chat_shows_text_as_it_is(serving: Serving) -> None:
    long = "word " * 40
    says = [ODD[:14], ODD[14:], " ", long, "\x1b[2J\x9b31m\r!"]

    def reply(call: object) -> object:
        return says if len(engine.calls) < 3 else RequestError(f"refused: {ODD}")

    engine = ScriptedEngine(reply, model="m[/x]")  # type: ignore[arg-type]
    with serving(engine) as url:
        typed = f"hello\n/alignment {ODD}\n/alignment direct\nh\udcffi\nagain\n/quit\n"
        run = _heedful("chat", "--url", f"{url}/v1", typed=typed.encode("utf-8", "surrogateescape"))
    shown = run.stdout.decode()
    assert run.returncode == 0, run.stderr.decode()
    assert "m[/x] · /alignment NAME" in shown
    assert (
        shown.count(f"{ODD} {long}\ufffd[2J\ufffd31m\ufffd!") == 2
    )  # on one line, and no control characters
    assert f"alignment: {ODD}\n" in shown and f"refused: {ODD}\n" in shown
    assert engine.calls[1].messages[-1]["content"] == "h?i"


def test_errors_of_the_command_line_show_text_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "heedful.yaml"
    file.write_text("model: x\ndefault_alignment: 'a[/x]'\n")
    serve, chat = at_once(
        lambda: _heedful("serve", "--config", str(file)),
        lambda: _heedful("chat", "--url", "http://127.0.0.1:9/[/x]"),
    )
    assert serve.returncode == 2 and b"unknown alignment 'a[/x]'; known: " in serve.stderr
    assert chat.returncode == 1 and b"no answer from http://127.0.0.1:9/[/x]:" in chat.stdout


def test_progress_and_tables_show_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("m[/x]") as report:
        report("step [/y]", 0.5)
    assert "m[/x]: step [/y]" in capsys.readouterr().err.replace("\n", " ")
    cell = CellSummary("m[/x]", "a:smile:", "c", 2, 1, ODD, None, None, None, None, 1.0, None, None, 0.0)
    terminal().print(figures.shown([cell]))
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "m[/x]@a:smile:, c" in shown and "[bold]not bold[/], :smile:" in shown
