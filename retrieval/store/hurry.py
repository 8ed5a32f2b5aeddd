"""Threads that do what takes milliseconds: a store that has much to take in first never keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Behind(Exception):
    """Much has been written elsewhere that a store takes in first, by `catch_up`."""

    def __init__(self, name: str, catch_up: Callable[[], None]) -> None:
        super().__init__(f"{name} has much to take in")
        self.catch_up = catch_up


class _Hurry(threading.local):
    on = False


hurry = _Hurry()


def in_a_hurry() -> None:
    """From now on this thread is never kept by a store that takes in what was written elsewhere: it raises Behind."""
    hurry.on = True
