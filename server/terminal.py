"""What is printed for people: text as it is, whatever a model, a file or an upstream has put into it."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

# All but tabs and line feeds: an escape sequence in an answer would move the cursor, or worse.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def terminal(*, stderr: bool = False) -> Console:
    """A console that takes no text for markup or for a code of an emoji; styles come as `Text` or `style=`."""
    return Console(stderr=stderr, markup=False, emoji=False)


def plain(text: str, style: str = "") -> Text:
    """Somebody else's text, unable to steer the terminal."""
    return Text(_CONTROL.sub("\ufffd", text), style=style)
