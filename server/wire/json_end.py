"""Where a JSON object that comes in pieces ends."""

from __future__ import annotations


class JsonEnd:
    """Follows the brackets of a growing text; each character is looked at once."""

    __slots__ = ("_begun", "_depth", "_escaped", "_quoted", "_seen")

    def __init__(self) -> None:
        self._seen = 0
        self._begun = False
        self._depth = 0
        self._quoted = self._escaped = False

    def reached(self, text: str) -> bool:
        """Whether all brackets of `text`, which only grows from call to call, are closed, once there was one."""
        for character in text[self._seen :]:
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped = character == "\\"
                self._quoted = character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
                self._begun = True
            elif character in "}]":
                self._depth -= 1
        self._seen = len(text)
        return self._begun and self._depth <= 0 and not self._quoted
