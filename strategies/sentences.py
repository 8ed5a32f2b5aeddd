"""Where sentences end: for checks that look at an answer piece by piece, while it is still being written."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A mark and what closes with it, before white space; CJK marks need none after them; a new line always ends one.
_END = re.compile(r"""[.!?…]+["'”’»)\]*_]*(?=\s)|[。！？]+["'”’」』）]*|\n+""")
# "1." or "a)" begins an item and is no sentence.
_LEAST_LETTERS = 3


def ends(text: str) -> Iterator[int]:
    """Offsets just past each whole sentence (its trailing white space not included). What follows is unfinished."""
    start = 0
    for match in _END.finditer(text):
        if sum(c.isalnum() for c in text[start : match.start()]) >= _LEAST_LETTERS:
            yield (start := match.end())


def split(text: str) -> list[str]:
    """All sentences of a finished text, the last one whether or not it is closed. Joined they are the text."""
    cuts = [0, *ends(text)]
    if cuts[-1] != len(text):
        cuts.append(len(text))
    return [text[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


class Splitter:
    """Sentences of a text that comes in pieces.

    `echo`: a text that a model may repeat at the start though it was asked not to; it is left out.
    """

    def __init__(self, echo: str = "") -> None:
        self._echo, self._text = echo, ""

    def feed(self, text: str) -> list[str]:
        """The sentences that are whole now."""
        self._text += text
        if self._echo:
            if self._echo.startswith(self._text) and self._text != self._echo:
                return []
            self._text, self._echo = self._text.removeprefix(self._echo), ""
        cut = list(ends(self._text))
        found = [self._text[a:b] for a, b in zip([0, *cut], cut, strict=False)]
        self._text = self._text[cut[-1] :] if cut else self._text
        return found

    def rest(self) -> list[str]:
        """What is left when the text is at its end."""
        rest, self._text = self._text.removeprefix(self._echo), ""
        return split(rest) if rest else []
