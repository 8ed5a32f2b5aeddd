"""What the named patterns of a gate find: e-mail addresses, payment cards, bank accounts, telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from heedful.strategies.verifiers.policy import compiled

Spans = Callable[[str], Iterator[tuple[int, int]]]
"""Where in a text values stand, in order and apart."""
_LABEL = r"[\pL\pN](?:[\pL\pN-]*[\pL\pN])?"
_EMAIL = rf"[\pL\pN._%+-]+@{_LABEL}(?:\.{_LABEL})*\.\pL{{2,}}"
_DIGITS = r"\d{3,}(?:[ -]\d{3,})*"
_ACCOUNT = r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,30}"
# With a country's prefix, or in three groups as in North America: else any number would be one.
_PHONE = (
    r"(?:\+|\b00)[1-9]\d{0,2}[ ./-]?(?:\(\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}\b"
    r"|(?:\(\d{3}\) ?|\b\d{3}[ .-])\d{3}[ .-]\d{4}\b"
)
_GROUP = re.compile(r"[A-Za-z0-9]+")
_CARD_DIGITS = range(13, 20)
_IBAN_LENGTH = range(15, 35)


def spans_of(pattern: Any) -> Spans:
    """All that a compiled pattern matches, but for nothing."""

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for match in pattern.finditer(text):
            if match.end() > match.start():
                yield match.span()

    return spans


def _checked(pattern: str, lengths: range, holds: Callable[[str], bool]) -> Spans:
    """Within a match, runs of its groups that have one of `lengths` and for which `holds`: the longest first.

    A number is often followed by others, such as the month in which a card ends.
    """
    candidates = spans_of(_compiled(pattern))

    def spans(text: str) -> Iterator[tuple[int, int]]:
        for start, end in candidates(text):
            groups = [m.span() for m in _GROUP.finditer(text, start, end)]
            at = 0
            while at < len(groups):
                found = _longest(text, groups[at : at + lengths[-1]], lengths, holds)
                if found:
                    yield groups[at][0], groups[at + found - 1][1]
                at += found or 1

    return spans


def _longest(text: str, groups: list[tuple[int, int]], lengths: range, holds: Callable[[str], bool]) -> int:
    """How many of the first groups hold together; 0: none do."""
    run, found = "", 0
    for count, (start, end) in enumerate(groups, 1):
        run += text[start:end]
        if len(run) > lengths[-1]:
            break
        if len(run) in lengths and holds(run):
            found = count
    return found


def luhn(digits: str) -> bool:
    """ISO/IEC 7812's check digit."""
    odd, even = digits[-1::-2], digits[-2::-2]
    return (sum(map(int, odd)) + sum(sum(divmod(2 * int(d), 10)) for d in even)) % 10 == 0


def iban(account: str) -> bool:
    """ISO 13616's check digits: letters are numbers from 10 on, and the remainder by 97 is one."""
    moved = account[4:] + account[:4]
    return account[2:4].isdigit() and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _compiled(pattern: str) -> Any:
    return compiled(pattern, case_sensitive=True, what="gate: redact", param="alignment.gate.redact")


BUILTIN: dict[str, Spans] = {
    "email": spans_of(_compiled(_EMAIL)),
    "card": _checked(_DIGITS, _CARD_DIGITS, luhn),
    "iban": _checked(_ACCOUNT, _IBAN_LENGTH, iban),
    "phone": spans_of(_compiled(_PHONE)),
}
