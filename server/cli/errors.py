"""What a command tells the one who called it."""

from __future__ import annotations

from typing import NoReturn

from rich.text import Text

from heedful.server.terminal import plain, terminal


class CommandError(Exception):
    """Why a command can't do what it was asked: told in its own words, without a traceback; exit status 2."""


def fail(message: str) -> NoReturn:
    """Tells it and ends the process."""
    terminal(stderr=True).print(Text.assemble(("heedful:", "red"), " ", plain(message)), soft_wrap=True)
    raise SystemExit(2)
