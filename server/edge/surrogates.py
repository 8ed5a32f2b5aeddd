"""Half of a surrogate pair in a JSON text: what some programs make of a cut emoji, and no character."""

from __future__ import annotations

import re

# A high half without the low one after it, or a low one without the high one before; the first `\\` is not escaped.
_HALF = re.compile(
    rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def half_in(body: bytes) -> str | None:
    """The first half that stands alone, as it is written (`\\ud83d`), or None."""
    found = _HALF.search(body)
    return found[1].decode() if found else None
