"""Many readers or one writer, in the order in which they came: neither ever waits for a stream of the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Sharing:
    """Not to be entered again by a thread that is in it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._readers, self._writer = 0, False

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._changed:
            self._in_turn(lambda: not self._writer)
            self._readers += 1
            self._changed.notify_all()  # the next may read too
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._changed:
            self._in_turn(lambda: not self._writer and not self._readers)
            self._writer = True
        try:
            yield
        finally:
            with self._changed:
                self._writer = False
                self._changed.notify_all()

    def _in_turn(self, free: Callable[[], bool]) -> None:
        me = object()
        self._waiting.append(me)
        try:
            self._changed.wait_for(lambda: self._waiting[0] is me and free())
        finally:
            self._waiting.remove(me)
