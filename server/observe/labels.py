"""What may be a label: names that the operator gave, and never one that a client makes up."""

from __future__ import annotations

from collections.abc import Collection

from heedful.strategies import Plan

OTHER, INLINE, NONE = "other", "inline", "none"


def alignment_of(plan: Plan, named: Collection[str]) -> str:
    """The alignment's name where it has one; "inline" for one that the request has made up."""
    return plan.name if plan.name in named else INLINE


class Bounded:
    """The first so many names as they are, and all later ones as "other"."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name
