"""Where sentences end: for checks that look at an answer piece by piece, while it is still being written."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A mark and what closes with it, before white space; CJK marks need none after them; a new line always ends one.
# A run of marks is looked at once, from its beginning: else a row of them would take quadratic time.
_END = re.compile(r"""(?<![.!?…])[.!?…]++["'”’»)\]*_]*+(?=\s)|[。！？]+["'”’」』）]*|\n+""")
_MAY_GO_ON = ".!?…\"'”’»)]*_"
# "1." or "a)" begins an item and is no sentence.
_LEAST_LETTERS = 3


def ends(text: str) -> Iterator[int]:
    """Offsets just past each whole sentence (its trailing white space not included). What follows is unfinished."""
    letters = counted = 0
    for match in _END.finditer(text):
        letters += _letters(text, counted, match.start())
        counted = match.end()
        if letters >= _LEAST_LETTERS:
            letters = 0
            yield counted


def _letters(text: str, start: int, end: int) -> int:
    return sum(map(str.isalnum, text[start:end]))


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
        # How far the text has been looked at for ends, and its letters up to `_counted`: each is looked at once.
        self._looked = self._letters = self._counted = 0

    def feed(self, text: str) -> list[str]:
        """The sentences that are whole now."""
        self._text += text
        if self._echo:
            if self._echo.startswith(self._text) and self._text != self._echo:
                return []
            self._text, self._echo = self._text.removeprefix(self._echo), ""
        if not text.strip(_MAY_GO_ON):
            return []  # no end comes of it before something else does
        found, start = [], 0
        for match in _END.finditer(self._text, self._looked):
            self._letters += _letters(self._text, self._counted, match.start())
            self._counted = match.end()
            if self._letters >= _LEAST_LETTERS:
                found.append(self._text[start : match.end()])
                start, self._letters = match.end(), 0
        looked = max(self._counted, len(self._text.rstrip(_MAY_GO_ON)))
        self._text, self._looked, self._counted = self._text[start:], looked - start, self._counted - start
        return found

    def rest(self) -> list[str]:
        """What is left when the text is at its end."""
        rest, self._text = self._text.removeprefix(self._echo), ""
        return split(rest) if rest else []
